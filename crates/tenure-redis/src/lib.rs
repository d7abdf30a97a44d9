//! Leader election on Redis and Valkey.
//!
//! ```no_run
//! use std::sync::Arc;
//! use tenure_core::{Election, LockName};
//! use tenure_redis::{RedisBackend, RedisConfig};
//!
//! # async fn example() -> Result<(), tenure_core::Error> {
//! let config = RedisConfig::from_url("redis://app:secret@redis.internal:6379")?;
//! let backend = Arc::new(RedisBackend::connect(config).await?);
//! let election = Election::builder(backend, LockName::new("nightly-batch")?).build()?;
//!
//! let leadership = election.campaign().await?;
//! if let Ok(permit) = leadership.permit(std::time::Duration::from_secs(1)) {
//!     println!("leading with fencing token {}", permit.token);
//! }
//! leadership.resign().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is guaranteed, and what is not
//!
//! **On one server** that keeps its data, at most one candidate holds a lock: each step is one
//! script, which the server runs as a whole, and the server ends the lease.
//!
//! - *The server's wall clock judges the lease.* Redis keeps the end of a key as a time of day.
//!   When that clock jumps forward by more than what is left of a lease, the lock is free at once,
//!   while its holder goes on believing for up to its validity. Slew the clock (chrony, NTP), do
//!   not step it. A jump back makes a lease longer, until the leader's next heartbeat; candidates
//!   look again after the lease that it had. The clients' wall clocks do not matter.
//! - *Deletion and eviction free a lock.* The holder learns of it with its next heartbeat. Set
//!   `maxmemory-policy noeviction`; [`RedisBackend::connect_checks`] tells when it is not.
//!
//! **Over a crash or failover** Redis may forget its last writes: replication is asynchronous,
//! and the append-only file is synced once a second by default. Two things are done about it.
//!
//! - *The lock is in quarantine for a lease.* Beside the lock stands its fence, with the server's
//!   incarnation: the replication id, which each restart and each promotion changes. A candidate
//!   that finds the lock free and another incarnation than in the last term does not take it: a
//!   forgotten term may still go on. It puts the lock in quarantine, in which no candidate gets it,
//!   for a lease (in a cluster and with Sentinel for longer, see below). It reports the change
//!   ([`RedisBackend::incarnation_changes`], and a warning in the log). So the first election after
//!   a failover takes a lease longer, unless the term before it survived.
//! - *The token does not fall back.* It is one more than the last, and at least the server's time
//!   (in units of 100 µs). So it goes on rising when the counter was forgotten, as long as the
//!   servers' clocks differ by less than the time between the two terms.
//!
//! What remains: a server that has forgotten that a lock was ever used (no persistence, or the
//! first term of all was never replicated) gives it away at once. It does not if a candidate asks
//! first that was connected to it before, or knew another node of a cluster to have the lock's
//! slot. That candidate puts the lock in quarantine for a lease.
//!
//! And a master that is replaced by hand (as
//! with `CLUSTER FAILOVER FORCE`), or behind an address that stays the same, goes on renewing its
//! leader's lease, while another is elected on the new one. Against the second, set
//! `min-replicas-to-write 1` on the servers, or [`RedisConfig::wait_for_replicas`] here; with the
//! latter a term also survives the failover to a replica that has confirmed it.
//!
//! A master that sentinels have replaced goes on as a master for 8 s and more, and without end when
//! it is cut off from them. So each backend asks them twice a second which it is, and leaves the
//! former one. It makes calls only on a master that more than half of them have confirmed within
//! the last 500 ms and twice the connect timeout. So it makes none while they do not answer, nor on
//! the one that the process knew before it was stopped.
//!
//! The lock is in quarantine on the new one for a
//! lease, that time, and a quarter of it. So a leader needs the sentinels: when more than half of
//! them are gone for longer than its lease, it stops, although the master is well. All processes
//! must name the same sentinels, and have the same connect timeout.
//!
//! A node of a cluster that is cut off from the others stops by itself, up to half of its
//! `cluster-node-timeout` after they may have promoted its replica. There the quarantine is a lease,
//! that half, and half a second; a lease and 8 s if the timeout may not be asked for.
//!
//! **Two deployments in one URL** (seeds of two clusters, sentinels of two masters, a host name with
//! the addresses of two servers) would elect a leader each. The servers are compared by their ids
//! before the first call, every half minute, and with each new connection to a node or a master that
//! was not known. Once two are seen, every call fails with
//! [`Misconfigured`](tenure_core::ErrorKind::Misconfigured), until the process is restarted; so it is
//! after a deployment was rebuilt on purpose. A server that is down is not compared.
//!
//! **A forked child** owns nothing of its parent's: each call fails with
//! [`Forked`](tenure_core::ErrorKind::Forked), and dropping what it has inherited does nothing.
//!
//! **Fencing** closes what is left, when the resource compares tokens. A single Redis with that is
//! stronger than any number without.
//!
//! # Keys
//!
//! | name | type | holds | expires |
//! |---|---|---|---|
//! | `<prefix>:{<lock>}` | string | `1 <campaign> <token> <lease in ms> <identity>[ <published value>]` | with the lease |
//! | `<prefix>:{<lock>}:fence` | string | `<last token> <incarnation> <lease in ms>` | never |
//! | `<prefix>:{<lock>}:failovers` | string, with Sentinel | the number of the latest failover that the last term knew of | never |
//! | `<prefix>:{<lock>}:released` | channel | an empty message for each release | |
//!
//! A lock that was given a key ([`RedisConfig::key`]) has that one. Its other names begin with the
//! key and `:` when the key has a hash tag, and with `{key}.` when it has none.
//!
//! The `1` is the format's version; a value of another version counts as held until it expires, so
//! that versions can be mixed in a fleet. The braces put the keys of a lock into one slot of a
//! cluster. The second key stays, some 80 bytes for each lock name that was ever used: do
//! not make names up in unlimited number. It may be deleted when nobody uses the lock any more.
//!
//! # Connections
//!
//! All elections of a process share one connection (in a cluster, one to each node), on which
//! calls are pipelined, and a second one for notifications while a candidate waits. Both have a
//! limit for every step and are made again when they are lost; a call that meets a lost connection
//! is repeated on a new one. They live on the runtime that the backend was made on.
//!
//! A heartbeat that its caller has given up is waited for in the background. When its answer comes
//! after all, it proves the term from when it was sent. The attempts after it are made on new
//! connections, and the old one stays in use as long as no new one can be had. When a process that
//! holds no term loses the connection for notifications, it comes back within a second, at random.
//!
//! With Sentinel a connection leads to the master that more than half of the given sentinels
//! name, and that says itself that it is one. Both are asked again for each connection, and the
//! sentinels as long as it lasts. In a
//! cluster redirections are followed, and the map of slots is fetched again when a node is lost,
//! from the first node that names another for the lock's slot.
//!
//! # What a server can do to a process
//!
//! An answer has one time limit as a whole, and 8 MiB; a value is read up to 4 KiB. A waiting
//! candidate looks at the lock 20 times a second at most when messages on its channel are not true.
//!
//! # Redlock is refused
//!
//! A quorum over N independent servers, `redis+quorum://`, was considered and is not offered.
//!
//! 1. *Its safety rests on the same assumption.* A majority protects against the loss of a
//!    minority of servers, not against a server that forgets. One that restarts without its last
//!    writes lets two majorities overlap in it alone. That calls for synced append-only files, or
//!    for restarts delayed by the longest lease; with either, one server needs no quorum to be
//!    safe, only to be available.
//! 2. *Each server's wall clock judges its part of the lease.* A majority is as safe as the
//!    clocks of all but a minority, and no setting of ours can check them.
//! 3. *Tokens need consensus, or something like it.* Counters of N servers drift apart, so the
//!    largest of a majority has to be written back to a majority before a term begins. This is a
//!    second round for each election, and needs rules for the membership of a server that was
//!    replaced. That is
//!    an ABD register built from scripts, with operators who would have to know when a server may
//!    come back. etcd does this, and has been tested for it.
//! 4. *Waiting does not scale up.* Releases have to be heard from a majority, and candidates that
//!    split the vote have to back off, so hand-over becomes slower with each server.
//!
//! Another store gives more than one Redis does: the same elections, another URL.
//!
//! # Valkey
//!
//! Valkey 7.2 and later speak the same protocol. Each test run has the conformance suite and the
//! tests of locks, faults and failovers on Redis 7.0 and on Valkey 9.1. Those of TLS and of a jump
//! of the server's clock run on Redis only. Old versions should work from Redis 5 on (replication of
//! scripts by their effects); users and their permissions need Redis 6.

mod backend;
mod checks;
mod config;
mod errors;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod keys;
mod late;
mod net;
mod notifications;
mod pace;
mod requests;
mod topology;
mod value;

#[cfg(test)]
mod support;

pub use backend::RedisBackend;
pub use config::RedisConfig;
// Its client is what `RedisConfig::from_client` takes.
pub use redis;
pub use tenure_kit::Tls;
