//! Whether as many replicas answer as each term waits for, found out without a write.
//!
//! `WAIT` would not do: on a connection that has written nothing it counts all replicas that are
//! linked, also one that is frozen. But each replica tells its master once a second how much it
//! has, and `INFO` tells how many seconds ago that was.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Pipeline, Value, cmd};
use tenure_core::{Check, ErrorKind};
use tokio::time::{Instant, sleep};

use super::REPLICATION;
use crate::config::Replicas;
use crate::errors::StoreError;
use crate::keys::KeyNames;
use crate::net::connection::{fields, text};
use crate::topology::Topology;
use crate::topology::lock_server::{LockServer, Request};

/// A replica reports once a second, and when it has been linked.
const LOOK_FOR: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The server's clock for whole seconds can be this late.
const CLOCK_MICROS: u64 = 50_000;

/// What the replicas of a master have reported.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// How much the master has written.
    written: u64,
    /// The replicas that are linked.
    by_name: HashMap<String, Report>,
}

#[derive(Clone, Copy, Debug)]
struct Report {
    /// How much of it the replica has.
    has: u64,
    /// The second in which it said so, by the master's clock.
    at: u64,
}

/// Asks a master what its replicas have reported: `None` in the moment when a second ends.
struct AskReports;

#[async_trait]
impl Request for AskReports {
    type Answer = Option<Reports>;

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        let (mut info, mut wait) = (cmd("INFO"), cmd("WAIT"));
        info.arg("replication");
        // For none: whether the user may.
        wait.arg(0).arg(1);
        let mut all = Pipeline::with_capacity(4);
        all.add_command(wait)
            .add_command(cmd("TIME"))
            .add_command(info)
            .add_command(cmd("TIME"));
        let answers = server.connection.query_all(&all).await?;
        let [_, before, info, after] = answers.as_slice() else {
            return Ok(None);
        };
        let (Some(before), Some(after)) = (time(before), time(after)) else {
            return Ok(None);
        };
        let is_clear = before.0 == after.0 && before.1 > CLOCK_MICROS;
        Ok(is_clear.then(|| reports(info, after.0)))
    }
}

fn time(answer: &Value) -> Option<(u64, u64)> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let number = |index: usize| text(parts.get(index)?)?.parse().ok();
    Some((number(0)?, number(1)?))
}

pub(crate) fn reports(info: &Value, now: u64) -> Reports {
    let mut reports = Reports::default();
    for (name, value) in fields(info) {
        if name == "master_repl_offset" {
            reports.written = value.parse().unwrap_or(0);
        }
        // `slave0:ip=10.0.0.2,port=6379,state=online,offset=42,lag=1`
        let number = name.strip_prefix("slave").unwrap_or_default();
        if number.parse::<u32>().is_err() {
            continue;
        }
        let part = |wanted: &str| {
            let mut parts = value.split(',').filter_map(|part| part.split_once('='));
            parts
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value)
        };
        let count = |wanted: &str| part(wanted).and_then(|value| value.parse::<u64>().ok());
        if let (Some("online"), Some(has), Some(lag)) =
            (part("state"), count("offset"), count("lag"))
        {
            let at = now.saturating_sub(lag);
            reports.by_name.insert(name.to_owned(), Report { has, at });
        }
    }
    reports
}

impl Reports {
    /// How many replicas have said since `first` that they have all that was written then.
    pub(crate) fn since(&self, first: &Self) -> usize {
        let is_new = |(name, report): &(&String, &Report)| {
            let before = first.by_name.get(*name);
            // One that was not linked then has said so since.
            report.has >= first.written && before.is_none_or(|before| report.at > before.at)
        };
        self.by_name.iter().filter(is_new).count()
    }
}

/// Whether as many replicas answer as each term waits for: with fewer no candidate is elected. `None`
/// where it may not be asked, which the check of the permissions tells.
pub(crate) async fn confirmation(
    topology: &Topology,
    keys: &KeyNames,
    wanted: Replicas,
) -> Result<Option<Check>, StoreError> {
    let wanted_count = usize::try_from(wanted.count).unwrap_or(usize::MAX);
    let until = Instant::now() + LOOK_FOR.max(wanted.timeout);
    let mut first: Option<Reports> = None;
    let mut answered = 0;
    while Instant::now() < until {
        let asked = topology
            .ask_holder(keys, topology.deadline(), &AskReports)
            .await;
        let reports = match asked {
            Ok(reports) => reports,
            Err(error) if error.kind == ErrorKind::Forbidden => return Ok(None),
            Err(error) => return Err(error),
        };
        match (&first, reports) {
            (_, None) => {}
            (None, reports) => first = reports,
            (Some(first), Some(reports)) => answered = answered.max(reports.since(first)),
        }
        if answered >= wanted_count {
            break;
        }
        sleep(LOOK_EVERY).await;
    }
    let Replicas { count, timeout } = wanted;
    let reason = format!("{answered} of the {count} replicas that each term waits for");
    Ok(Some(if answered < wanted_count {
        let remedy = "link the missing replicas to their master, or lower wait_replicas: no \
                      candidate can be elected as it is";
        let reason = format!("{reason} report to their master that they have all it has written");
        Check::unusable(REPLICATION, reason, remedy)
    } else {
        Check::fine(
            REPLICATION,
            format!(
                "{reason} have just reported that they have all that their master has written; \
                 whether they confirm within {timeout:?} was not measured, as that would take a \
                 write"
            ),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str], now: u64) -> Reports {
        let text = format!(
            "role:master\r\nmaster_repl_offset:42\r\n{}\r\n",
            lines.join("\r\n")
        );
        reports(&Value::BulkString(text.into_bytes()), now)
    }

    #[test]
    fn a_replica_counts_when_it_has_reported_all_since_the_first_look() {
        let line = |offset: u64, lag: u64| {
            format!("slave0:ip=::1,port=1,state=online,offset={offset},lag={lag}")
        };
        let first = told(&[&line(42, 0)], 100);
        let later = |offset, lag| told(&[&line(offset, lag)], 102).since(&first);
        assert_eq!(later(42, 1), 1);
        assert_eq!(later(42, 2), 0, "frozen since");
        assert_eq!(later(41, 0), 0, "behind");
        let both = told(
            &[&line(42, 0), &line(42, 0).replace("slave0", "slave1")],
            102,
        );
        assert_eq!(both.since(&first), 2, "linked since");
        let away = "slave0:ip=::1,port=1,state=wait_bgsave,offset=42,lag=0";
        assert_eq!(told(&[away], 102).since(&first), 0);
        let other = ["slave_read_only:1", "slave0:ip=a", "slave1:"];
        assert!(told(&other, 102).by_name.is_empty());
    }
}
