//! [`Form`]: how the record of an election stands in a kind of object.

use std::fmt;

use serde_json::Value;

use crate::election_record::ElectionRecord;
use crate::resource::Resource;
use crate::time::WallTime;

/// How the record of an election stands in a kind of object.
pub trait Form: fmt::Debug + Send + Sync + 'static {
    /// The kind of object.
    const RESOURCE: Resource;

    /// The store's name, as in logs and metrics.
    const STORE: &'static str;

    /// Where the record stands in the object, for errors.
    const LOCATION: &'static str;

    /// The record in `object`; `None` if there is none, and the text of the problem if there is
    /// something else in its place.
    fn read(object: &Value) -> Result<Option<ElectionRecord>, String>;

    /// Puts `record` in the place of the one in `object`, and leaves all else there as it is.
    fn write(object: &mut Value, record: &ElectionRecord);

    /// The command that removes the record of `lock` and nothing else.
    fn removal(namespace: &str, lock: &str) -> String;

    /// A time as it stands in the record.
    fn time(time: WallTime) -> String;
}
