//! What stands in a record file, and by whose clock.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tenure_core::record::{Record, RecordHolder};
use tenure_core::{CampaignId, FencingToken, Time};

use crate::alive;

/// The format this version writes, and the newest it reads. Fields may be added without raising
/// it: older versions ignore them.
const FORMAT: u64 = 1;

/// A clock that two processes share if and only if these are equal: the boot clock starts again at
/// each boot, and each time namespace has an offset of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClockDomain {
    boot: String,
    /// `None` on kernels without time namespaces.
    time_namespace: Option<String>,
}

impl ClockDomain {
    /// The domain of this process; `None` where the system does not tell.
    pub(crate) fn current() -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = Path::new("/proc/self/ns/time");
        let time_namespace = fs::read_link(namespace)
            .ok()
            .map(|target| target.to_string_lossy().into_owned());
        Some(Self {
            boot: boot.trim().to_owned(),
            time_namespace,
        })
    }
}

/// When and by whose clock a record was written, and which file its holder keeps locked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) alive: Option<String>,
    pub(crate) renewed: Option<Time>,
    pub(crate) clock: Option<ClockDomain>,
}

/// The content of a record file.
#[derive(Debug)]
pub(crate) enum Content {
    Record(Record, Written),
    /// Of a format that only a newer version of this library reads.
    Newer(u64),
    /// Not written by any version of this library.
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct RecordText {
    format: u64,
    #[serde(default)]
    lease_ms: u64,
    holder: Option<HolderText>,
}

#[derive(Serialize, Deserialize)]
struct HolderText {
    identity: String,
    campaign: Option<String>,
    token: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    alive: Option<String>,
    renewed: Option<u64>,
    clock: Option<ClockDomain>,
}

#[derive(Deserialize)]
struct FormatText {
    format: u64,
}

/// The text of a record.
pub(crate) fn encode(record: &Record, written: &Written) -> Result<Vec<u8>, serde_json::Error> {
    let text = RecordText {
        format: FORMAT,
        lease_ms: alive::millis_up(record.lease),
        holder: record.holder.as_ref().map(|holder| HolderText {
            identity: holder.identity.clone(),
            campaign: holder.campaign.map(|campaign| campaign.to_string()),
            token: holder.token.map(FencingToken::as_u64),
            value: holder.value.clone(),
            alive: written.alive.clone(),
            renewed: written.renewed.map(Time::as_nanos),
            clock: written.clock.clone(),
        }),
    };
    let mut bytes = serde_json::to_vec(&text)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads the text of a record.
pub(crate) fn decode(bytes: &[u8]) -> Content {
    match serde_json::from_slice::<FormatText>(bytes) {
        Ok(found) if found.format > FORMAT => return Content::Newer(found.format),
        Ok(_) => {}
        Err(error) => return Content::Damaged(error.to_string()),
    }
    let text: RecordText = match serde_json::from_slice(bytes) {
        Ok(text) => text,
        Err(error) => return Content::Damaged(error.to_string()),
    };
    let lease = Duration::from_millis(text.lease_ms);
    let Some(holder) = text.holder else {
        let record = Record::new(None, lease);
        return Content::Record(record, Written::default());
    };
    if lease.is_zero() {
        return Content::Damaged("it has a holder, but no lease".to_owned());
    }
    let token = match holder.token.map(FencingToken::from_counter).transpose() {
        Ok(token) => token,
        Err(error) => return Content::Damaged(error.message().to_owned()),
    };
    let written = Written {
        alive: holder.alive.filter(|name| alive::is_alive_name(name)),
        renewed: holder.renewed.map(Time::from_nanos),
        clock: holder.clock,
    };
    let record = Record::new(
        Some(
            RecordHolder::new(holder.identity)
                .with_campaign(holder.campaign.as_deref().and_then(CampaignId::parse))
                .with_token(token)
                .with_value(holder.value),
        ),
        lease,
    );
    Content::Record(record, written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> (Record, Written) {
        let record = Record::new(
            Some(
                RecordHolder::new("pod-1")
                    .with_campaign(CampaignId::new(0xabc))
                    .with_token(FencingToken::from_counter(7).ok())
                    .with_value("http://10.0.0.1 \"grün\"".to_owned()),
            ),
            Duration::from_secs(20),
        );
        let written = Written {
            alive: Some("alive-0000000000000abc-12".to_owned()),
            renewed: Some(Time::from_nanos(123_456_789_012)),
            clock: ClockDomain::current(),
        };
        (record, written)
    }

    #[test]
    fn what_is_written_is_read() {
        let (record, written) = record();
        match decode(&encode(&record, &written).unwrap()) {
            Content::Record(found, by) => assert_eq!((found, by), (record, written)),
            other => panic!("{other:?}"),
        }
        let released = Record::new(None, Duration::from_secs(1));
        match decode(&encode(&released, &Written::default()).unwrap()) {
            Content::Record(found, _) => assert_eq!(found, released),
            other => panic!("{other:?}"),
        }
    }

    /// The text as it is on disk: a change that older versions cannot read must fail here.
    #[test]
    fn the_format_stays() {
        let text = br#"{"format":1,"lease_ms":20000,"holder":{"identity":"pod-1",
            "campaign":"0000000000000abc","token":7,"alive":"alive-0000000000000abc-12",
            "renewed":5,"clock":{"boot":"b","time_namespace":"time:[1]"},"new":[1]},"more":{}}"#;
        let Content::Record(record, written) = decode(text) else {
            panic!("unreadable");
        };
        let holder = record.holder.unwrap();
        assert_eq!(holder.identity, "pod-1");
        assert_eq!(holder.campaign, Some(CampaignId::new(0xabc)));
        assert_eq!(holder.token.unwrap().as_u64(), 7);
        assert_eq!(record.lease, Duration::from_secs(20));
        assert_eq!(written.alive.unwrap(), "alive-0000000000000abc-12");
        assert_eq!(written.renewed, Some(Time::from_nanos(5)));
        assert_eq!(written.clock.unwrap().boot, "b");
    }

    #[test]
    fn a_newer_format_is_not_taken_for_damage() {
        for text in [r#"{"format":2}"#, r#"{"format":9,"lease_ms":"20s"}"#] {
            assert!(matches!(decode(text.as_bytes()), Content::Newer(_)));
        }
    }

    #[test]
    fn damage_of_any_kind_is_told_apart() {
        let whole = {
            let (record, written) = record();
            encode(&record, &written).unwrap()
        };
        // The final newline carries nothing.
        for end in 0..whole.len() - 1 {
            let cut = decode(&whole[..end]);
            assert!(matches!(cut, Content::Damaged(_)), "{end}: {cut:?}");
        }
        let holder = r#""holder":{"identity":"a"}"#;
        for text in [
            "\0\0\0\0".to_owned(),
            "[]".to_owned(),
            "null".to_owned(),
            "{}".to_owned(),
            r#"{"format":-1}"#.to_owned(),
            format!(r#"{{"format":1,{holder}}}"#),
            format!(r#"{{"format":1,"lease_ms":0,{holder}}}"#),
            format!(r#"{{"format":1,"lease_ms":-20000,{holder}}}"#),
            format!(r#"{{"format":1,"lease_ms":1e300,{holder}}}"#),
            r#"{"format":1,"lease_ms":1,"holder":{"identity":"a","token":18446744073709551615}}"#
                .to_owned(),
        ] {
            let found = decode(text.as_bytes());
            assert!(matches!(found, Content::Damaged(_)), "{text}: {found:?}");
        }
    }
}
