//! What bears on locks in an etcd cluster, for an operator.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, GetOptions, KeyValue, StatusResponse, Txn,
    TxnOp, TxnOpResponse,
};
use tenure_core::{Check, ErrorKind, Holder, LockName};
use tenure_kit::Address;

use crate::config::EtcdConfig;
use crate::connector::Connector;
use crate::errors::{self, StoreError};
use crate::keys::{self, First};

/// The lease that no key has; it stands in the name of the key that is not written.
const NO_LEASE: i64 = 0;

/// How long a candidate that is alive needs at most to see that its turn has come.
const TURN: Duration = Duration::from_secs(1);

const ALARMS: &str = "alarms";

const FREE_SPACE: &str = "compact and defragment, then `etcdctl alarm disarm`";

/// So many keys of a queue are looked at for one that hangs on no lease.
const MOST_KEYS: i64 = 5_000;

/// Looks, and changes nothing.
pub(crate) async fn all(connector: &Arc<Connector>, lock: &LockName) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut serving = 0;
    for number in 0..connector.config.endpoints.len() {
        let check = member(connector, number).await;
        serving += usize::from(check.verdict < tenure_core::Verdict::Unusable);
        checks.push(check);
    }
    // While one serves, the others are used when it fails.
    if serving > 0 {
        for check in &mut checks {
            check.verdict = check.verdict.min(tenure_core::Verdict::Warning);
        }
    }
    checks.push(cluster(connector));
    checks.push(members(connector).await);
    checks.push(alarms(connector).await);
    checks.push(permissions(connector, lock).await);
    checks.push(queue(connector, lock).await);
    checks.push(encryption(&connector.config));
    checks
}

async fn member(connector: &Arc<Connector>, number: usize) -> Check {
    const NAME: &str = "endpoint";
    let asked = async {
        let connection = connector.connect_to(number).await?;
        let mut client = connection.client.clone();
        let status = async move { client.status().await };
        let limit = connector.config.request_timeout;
        let status = connector.one(&connection, limit, status).await?;
        if !status.is_learner() {
            connector.refuse_proxy(&connection, limit).await?;
        }
        Ok::<_, StoreError>((connection.endpoint, status))
    };
    match asked.await {
        Ok((endpoint, status)) => judged(NAME, &endpoint, &status),
        Err(error) => Check::unusable(
            NAME,
            format!(
                "{}: {}",
                connector.config.endpoints[number],
                error.message()
            ),
            "start that member, or take it out of the URL",
        ),
    }
}

fn judged(name: &'static str, endpoint: &str, status: &StatusResponse) -> Check {
    let version = status.version().escape_debug();
    if status.leader() == 0 {
        return Check::unusable(
            name,
            format!("{endpoint} runs etcd {version} and sees no raft leader"),
            "bring more than half of the members up, and see whether they reach each other",
        );
    }
    if status.is_learner() {
        return Check::unusable(
            name,
            format!("{endpoint} runs etcd {version} and is a learner, which serves no writes"),
            "promote it, or take it out of the URL",
        );
    }
    Check::fine(
        name,
        format!("{endpoint} runs etcd {version} and sees a raft leader"),
    )
}

/// What the endpoints have answered, one by one.
fn cluster(connector: &Arc<Connector>) -> Check {
    const NAME: &str = "cluster";
    if let Err(error) = connector.cluster.check() {
        return Check::unusable(
            NAME,
            error.message(),
            "take the members of the other cluster out of the URL: \
             `etcdctl endpoint status --write-out=json` shows each one's cluster_id",
        );
    }
    match connector.cluster.id() {
        Some(id) => Check::fine(
            NAME,
            format!("all endpoints that answer belong to the cluster {id:x}"),
        ),
        None => Check::warning(NAME, "not seen: no endpoint answers", "start the members"),
    }
}

async fn members(connector: &Arc<Connector>) -> Check {
    const NAME: &str = "replication";
    let ask = |mut client: Client| async move { client.member_list().await };
    let count = match connector.call(connector.config.request_timeout, ask).await {
        Ok(list) => list
            .members()
            .iter()
            .filter(|member| !member.is_learner())
            .count(),
        Err(error) => return not_checked(NAME, &error),
    };
    let endpoints = connector.config.endpoints.len();
    let spare = count.saturating_sub(1) / 2;
    let reason =
        format!("{count} voting members, of which {spare} may fail; {endpoints} in the URL");
    if count > 1 && endpoints == 1 {
        return Check::warning(
            NAME,
            reason,
            "name all members in the URL, joined by commas",
        );
    }
    if count == 2 {
        return Check::warning(NAME, reason, "run one, three or five members");
    }
    Check::fine(NAME, reason)
}

async fn alarms(connector: &Arc<Connector>) -> Check {
    const NAME: &str = ALARMS;
    let ask = |mut client: Client| async move {
        client.alarm(AlarmAction::Get, AlarmType::None, None).await
    };
    match connector.call(connector.config.request_timeout, ask).await {
        Ok(told) if told.alarms().is_empty() => Check::fine(NAME, "none"),
        Ok(told) => {
            let of = |alarm: &etcd_client::AlarmMember| format!("{:?}", alarm.alarm());
            let raised: Vec<String> = told.alarms().iter().map(of).collect();
            Check::unusable(
                NAME,
                format!("raised: {}", raised.join(", ")),
                format!("for NOSPACE {FREE_SPACE}; for CORRUPT replace that member"),
            )
        }
        // With authentication only root may ask; a full store is told by the permissions too.
        Err(error) if error.kind == ErrorKind::Forbidden => {
            Check::fine(NAME, "only root may ask for them")
        }
        Err(error) => not_checked(NAME, &error),
    }
}

/// Whether the user may read and write the lock's keys.
async fn permissions(connector: &Arc<Connector>, lock: &LockName) -> Check {
    const NAME: &str = "permissions";
    let queue = connector.config.election(lock);
    let key = keys::candidate(&queue, NO_LEASE);
    let ask = |mut client: Client| {
        let rights = keys::candidates_rights(&queue, &key);
        async move { client.txn(rights).await }
    };
    match connector.call(connector.config.request_timeout, ask).await {
        Ok(_) => Check::fine(NAME, format!("the keys {queue}* can be read and written")),
        Err(error) if error.kind == ErrorKind::Forbidden => Check::unusable(
            NAME,
            error.message(),
            format!(
                "etcdctl role grant-permission ROLE --prefix=true readwrite {}",
                keys::shown(queue.as_bytes())
            ),
        ),
        // Only root may ask for the alarm; this tells everybody.
        Err(error) if errors::is_full(&error) => {
            Check::unusable(ALARMS, error.message(), FREE_SPACE)
        }
        // It goes the way of an attempt to lead, which would meet the same.
        Err(error) => Check::unusable(
            NAME,
            format!("not seen, and no candidate can lead: {}", error.message()),
            "bring more than half of the members up, and run doctor again",
        ),
    }
}

/// The candidates' keys.
struct Queue {
    first: Option<KeyValue>,
    count: i64,
    /// Where not all of them hang on a lease, those that were looked at.
    looked_at: Vec<KeyValue>,
}

async fn queued(connector: &Arc<Connector>, lock: &LockName) -> Result<Queue, StoreError> {
    let election = connector.config.election(lock);
    let ask = |mut client: Client| {
        let get = |options: GetOptions| TxnOp::get(election.clone(), Some(options));
        let first = get(keys::first());
        let count = get(GetOptions::new().with_prefix().with_count_only());
        let some = get(GetOptions::new().with_prefix().with_limit(MOST_KEYS));
        // The server looks at the leases, so that mostly no key has to be sent.
        let all_on_leases = Compare::lease(election.clone(), CompareOp::Greater, NO_LEASE);
        let read = Txn::new()
            .when([all_on_leases.with_prefix()])
            .and_then([first.clone(), count.clone()])
            .or_else([first, count, some]);
        async move { client.txn(read).await }
    };
    let answer = connector
        .call(connector.config.request_timeout, ask)
        .await?;
    let mut reads = answer.op_responses().into_iter().map(|read| match read {
        TxnOpResponse::Get(mut get) => (get.count(), get.take_kvs()),
        _ => (0, Vec::new()),
    });
    let mut next = || reads.next().unwrap_or_default();
    let (first, count, looked_at) = (next().1.into_iter().next(), next().0, next().1);
    Ok(Queue {
        first,
        count,
        looked_at,
    })
}

/// Whether anything in the queue keeps those behind it waiting that will not lead.
async fn queue(connector: &Arc<Connector>, lock: &LockName) -> Check {
    const NAME: &str = "queue";
    let queue = match queued(connector, lock).await {
        Ok(queue) => queue,
        Err(error) => return not_checked(NAME, &error),
    };
    let mut obstacles = queue.looked_at.iter().filter(|kv| kv.lease() == NO_LEASE);
    if let Some(kv) = obstacles.next() {
        let more = match obstacles.count() {
            0 => String::new(),
            more => format!("; so do {more} more"),
        };
        return Check::unusable(
            NAME,
            format!(
                "the key {} hangs on no lease, so it never ends, and nobody is elected past it{more}",
                keys::shown(kv.key())
            ),
            format!(
                "the program that wrote it may lead: stop it first, and only then: {}",
                keys::deletion(kv.key())
            ),
        );
    }
    let count = queue.count;
    let fine = |leader: &str| Check::fine(NAME, format!("{leader}; {count} keys in all"));
    let Some(first) = queue.first else {
        return Check::fine(NAME, "empty");
    };
    match First::of(&first) {
        Ok(First::Waiter(holder)) => match still_first(connector, lock, &first).await {
            Ok(true) => unmoved(NAME, connector, &first, &holder).await,
            Ok(false) => fine("a hand-over is under way"),
            Err(error) => not_checked(NAME, &error),
        },
        Ok(_) => fine("the first key is the leader's"),
        Err(error) => not_checked(NAME, &StoreError::new(error.kind(), error.message())),
    }
}

/// Whether this candidate has not taken its turn although it had the time.
async fn still_first(
    connector: &Arc<Connector>,
    lock: &LockName,
    seen: &KeyValue,
) -> Result<bool, StoreError> {
    tokio::time::sleep(TURN).await;
    let first = queued(connector, lock).await?.first;
    Ok(first.is_some_and(|first| {
        first.create_revision() == seen.create_revision()
            && matches!(First::of(&first), Ok(First::Waiter(_)))
    }))
}

async fn unmoved(
    name: &'static str,
    connector: &Arc<Connector>,
    first: &KeyValue,
    holder: &Holder,
) -> Check {
    let lease = first.lease();
    let ask = |client: Client| async move { client.lease_client().time_to_live(lease, None).await };
    let left = match connector.call(connector.config.request_timeout, ask).await {
        Ok(told) if told.ttl() >= 0 => format!("in {} s", told.ttl()),
        _ => "soon".to_owned(),
    };
    Check::warning(
        name,
        format!(
            "the candidate {:?} stands first and does not take its turn: its process is dead or \
             stopped, and the others wait until its lease ends, {left} unless it is alive",
            holder.identity
        ),
        format!(
            "wait; or, if you know that it is dead: {}",
            keys::deletion(first.key())
        ),
    )
}

fn encryption(config: &EtcdConfig) -> Check {
    const NAME: &str = "encryption";
    if config.tls.is_some() {
        return Check::fine(NAME, "TLS, with the servers' certificates verified");
    }
    if config.endpoints.iter().all(Address::is_loopback) {
        return Check::fine(NAME, "none, on this host");
    }
    Check::warning(
        NAME,
        "none: passwords and locks can be read and changed on the way",
        "turn TLS on at the servers, and use etcds: instead of etcd: in the URL",
    )
}

fn not_checked(name: &'static str, error: &StoreError) -> Check {
    Check::warning(
        name,
        format!("not seen: {}", error.message()),
        "fix this and run doctor again",
    )
}
