//! What the record of client-go has no field for: an annotation of our own beside it.

use serde::{Deserialize, Serialize};
use tenure_core::record::RecordHolder;
use tenure_core::{CampaignId, FencingToken};

use crate::election_record::ElectionRecord;

/// The annotation in which a holder tells observers of its term: JSON with its token, its campaign and
/// what it publishes.
pub const TERM_ANNOTATION: &str = "tenure/term";

/// The format that this version writes, and the newest it reads.
const FORMAT: u64 = 1;

/// Whose term it is, beyond the identity, and what its holder publishes.
///
/// Others change the record and leave this annotation as it is. So it says which record it belongs
/// to, and is believed beside no other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Term {
    format: u64,
    identity: String,
    transitions: i64,
    renewed: Option<String>,
    campaign: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl Term {
    /// The text for `holder` beside `record`; `None` if there is nothing to say.
    pub(crate) fn text(holder: &RecordHolder, record: &ElectionRecord) -> Option<String> {
        let term = Self {
            format: FORMAT,
            identity: record.holder.clone(),
            transitions: record.transitions,
            renewed: record.renewed.clone(),
            campaign: holder.campaign?.to_string(),
            token: holder.token.map(FencingToken::as_u64),
            value: holder.value.clone(),
        };
        serde_json::to_string(&term).ok()
    }

    /// The holder that `record` names, with what the annotation adds if it belongs to it.
    pub(crate) fn holder(annotation: Option<&str>, record: &ElectionRecord) -> RecordHolder {
        let term = annotation
            .and_then(|text| serde_json::from_str::<Self>(text).ok())
            .filter(|term| term.belongs_to(record));
        RecordHolder::new(record.holder.clone())
            .with_campaign(
                term.as_ref()
                    .and_then(|term| CampaignId::parse(&term.campaign)),
            )
            .with_token(
                term.as_ref()
                    .and_then(|term| FencingToken::from_counter(term.token?).ok()),
            )
            .with_value(term.and_then(|term| term.value))
    }

    fn belongs_to(&self, record: &ElectionRecord) -> bool {
        self.format == FORMAT
            && self.identity == record.holder
            && self.transitions == record.transitions
            && self.renewed == record.renewed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ElectionRecord {
        ElectionRecord {
            holder: "pod-1".to_owned(),
            lease_seconds: 20,
            acquired: None,
            renewed: Some("2021-12-07T15:38:32.000001Z".to_owned()),
            transitions: 3,
        }
    }

    fn holder() -> RecordHolder {
        RecordHolder::new("pod-1".to_owned())
            .with_campaign(Some(CampaignId::new(7)))
            .with_token(Some(FencingToken::from_counter(41).unwrap()))
            .with_value(Some("http://10.0.0.1/".to_owned()))
    }

    #[test]
    fn it_is_believed_beside_its_own_record_only() {
        let text = Term::text(&holder(), &record()).unwrap();
        assert_eq!(Term::holder(Some(&text), &record()), holder());
        let others: [fn(&mut ElectionRecord); 3] = [
            |record| "pod-2".clone_into(&mut record.holder),
            |record| record.transitions += 1,
            |record| record.renewed = Some("2021-12-07T15:38:42.000001Z".to_owned()),
        ];
        for change in others {
            let mut record = record();
            change(&mut record);
            let read = Term::holder(Some(&text), &record);
            assert_eq!(read.identity, record.holder);
            assert_eq!((read.campaign, read.token, read.value), (None, None, None));
        }
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        for text in ["", "{}", "[1]", "{\"format\":2}", "\0"] {
            let read = Term::holder(Some(text), &record());
            assert_eq!((read.campaign, read.token, read.value), (None, None, None));
        }
    }
}
