//! Doors for the fuzz targets of this repository. No part of the interface: anything here may change.

use tenure_core::record::Record;

use crate::format::{self, Content};

/// The text of a record file: its record, if it holds one.
///
/// What was read is written again, and must be read as the same.
pub fn record(text: &[u8]) -> Option<Record> {
    let Content::Record(record, written) = format::decode(text) else {
        return None;
    };
    let again = format::encode(&record, &written).map(|text| format::decode(&text));
    match again {
        Ok(Content::Record(again, by)) => assert_eq!((&again, &by), (&record, &written)),
        other => panic!("not read by ourselves: {other:?}"),
    }
    Some(record)
}
