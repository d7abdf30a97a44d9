//! [`Mark`]: what shows that a holder has renewed.

use std::fmt;
use std::sync::Arc;

/// What changes with every renewal of a record, and with nothing else.
///
/// A store whose object other programs write too has a new version with each of their writes. Those
/// show no life of the holder. So such a store gives each record a mark, made of the record itself
/// and of what tells the object from an earlier one of the same name. A lease is counted from the
/// moment at which the mark is seen to have changed (I5); writes stay conditional on the version.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mark(Arc<str>);

impl From<String> for Mark {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
