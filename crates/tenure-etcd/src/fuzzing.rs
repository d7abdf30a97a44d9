//! Doors for the fuzz targets of this repository. No part of the interface: anything here may change.

use tenure_core::Holder;
use tonic::{Code, Status};

use crate::errors;
use crate::keys::{self, First};

/// The first key of an election, and who it says leads or waits.
pub fn first_key(key: &[u8], value: &[u8], lease: i64, create_revision: i64) -> Option<Holder> {
    match First::read(key, value, lease, create_revision) {
        Ok(First::Leader(holder) | First::Waiter(holder)) => Some(holder),
        Ok(First::Obstacle(key)) => {
            let told = keys::obstacle(&key);
            assert!(
                !told.message().contains(char::is_control),
                "a terminal would obey: {told:?}"
            );
            None
        }
        Err(_) => None,
    }
}

/// The error for a status that a server answers with, as text.
pub fn status(code: i32, message: &str) -> String {
    let error = errors::of_status(&Status::new(Code::from(code), message));
    errors::at_first_contact(error, true).message().to_owned()
}
