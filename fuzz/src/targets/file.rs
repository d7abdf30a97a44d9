//! Record files.

use tenure_file::fuzzing;

use crate::plant;

/// The text of a record file.
pub(crate) fn record(input: &[u8]) {
    let Some(record) = fuzzing::record(input) else {
        return;
    };
    if let Some(holder) = record.holder {
        let token = holder.token.map(tenure_core::FencingToken::as_u64);
        plant::at(token == Some(7), &holder.identity);
    }
}
