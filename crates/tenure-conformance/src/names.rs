//! The suite's own names and values.

use tenure_core::{Identity, LockName, PublishedValue};

use crate::verdict::Stop;

pub(crate) fn lock_name(name: &str) -> Result<LockName, Stop> {
    LockName::new(name).map_err(|error| Stop::failed(format!("the suite's own name: {error}")))
}

pub(crate) fn identity(text: &str) -> Result<Identity, Stop> {
    Identity::new(text).map_err(|error| Stop::failed(format!("the suite's own identity: {error}")))
}

pub(crate) fn value(text: &str) -> Result<PublishedValue, Stop> {
    PublishedValue::new(text)
        .map_err(|error| Stop::failed(format!("the suite's own value: {error}")))
}
