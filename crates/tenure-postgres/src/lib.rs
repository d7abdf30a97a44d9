//! Leader election on Postgres advisory locks, with a lease that the server itself enforces.
//!
//! No table, no extension and no privilege but `CONNECT` on the database. What it promises:
//!
//! - **A leader that hangs or is cut off loses the lock when its lease ends.** Advisory locks
//!   alone have no lease: a frozen holder keeps them without end. Here the session that holds them
//!   has `idle_session_timeout` set to the lease, so the server ends it, and frees its locks,
//!   when no heartbeat has come for so long.
//! - **A leader that dies is noticed at once**, and so is one that resigns.
//! - **Fencing tokens rise** over crashes of the server: each is the number of a transaction that
//!   is written to the log before any process learns it.
//! - **A pooler that would break all this is refused**, as are standbys and servers before 14.
//! - **The application's writes can be made in the session that holds the lock**, so that those
//!   of a former leader cannot be committed: see [`PostgresBackend::begin`].
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use tenure_core::{Election, LockName};
//! use tenure_postgres::{PostgresBackend, PostgresConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tenure_core::Error> {
//! let config = PostgresConfig::from_url("postgres://app@db1,db2/app?sslmode=verify-full")?;
//! let backend = Arc::new(PostgresBackend::connect(config).await?);
//! let lock = LockName::new("nightly-batch")?;
//! let election = Election::builder(backend.clone(), lock.clone()).build()?;
//!
//! let leadership = election.campaign().await?;
//! let mut transaction = backend.begin(&lock, leadership.token()).await?;
//! transaction
//!     .execute("INSERT INTO invoices (n) VALUES ($1)", &[&7_i64])
//!     .await?;
//! transaction.commit().await?;
//! leadership.resign().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Sessions
//!
//! A backend has one dedicated session for each identity and lease among its elections, which
//! usually means one. It is never shared with a pool. When it ends, all its terms have ended. When
//! its connection is silent it moves to another one, but only while the server still shows its
//! locks, so that no other candidate can have had them in between. One query per heartbeat proves
//! the terms of all its elections. One more session for each backend hears notifications, so that
//! no heartbeat waits behind what other roles send. While a process waits for locks that others
//! hold, it has up to [`watch_sessions`](PostgresConfig::watch_sessions) more, one for each process
//! it waits for.
//!
//! No session keeps a snapshot for longer than 30 s, so VACUUM is not kept from its work; only a
//! [`GuardedTransaction`] may, for at most its lease.
//!
//! The session's lease counts for all locks in it. A lock that is not renewed any more, while
//! others are, is unlocked by this library when its own lease ends.
//!
//! # What others see
//!
//! `application_name` of the session is the identity (beyond 63 bytes: its beginning and a hash).
//! Token, published value, the lock's name and the whole identity have no place in an advisory
//! lock; the holder announces them on the channel `tenure` (`NOTIFY`), and again when an observer
//! asks. So for a holder that does not answer, a frozen one for instance, and for programs that
//! take the lock without this library, [`holder`](tenure_core::LockBackend::holder) knows only
//! the application name.
//!
//! # Fencing elsewhere in the database
//!
//! Writes that cannot go through [`PostgresBackend::begin`] carry the token, and the table
//! remembers the largest:
//!
//! ```sql
//! UPDATE accounts SET balance = $1, fence = $2 WHERE id = $3 AND fence <= $2;
//! ```
//!
//! # Clients in other languages
//!
//! The key of a lock is documented at [`AdvisoryKey`]. A program that takes it with
//! `pg_try_advisory_lock` excludes, and is excluded by, the candidates here; to be noticed at once
//! when it dies or resigns it holds `pg_advisory_lock(1952804469, pg_backend_pid())` too, and says
//! `NOTIFY tenure, '1 free <key>'`. A leader here holds the key shared, so no program may take it by
//! a function whose name ends in `_shared`.

mod backend;
#[cfg(feature = "_tls")]
mod channel_binding;
mod checks;
mod client;
mod cluster;
mod config;
mod connection;
mod connector;
mod credentials;
mod driver;
mod errors;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod incarnation;
mod key;
mod notifications;
mod pooler;
mod question;
mod session;
mod sessions;
mod settings;
mod setup;
mod socket;
mod stream;
#[cfg(feature = "_tls")]
mod tls;

pub use backend::PostgresBackend;
pub use config::{ChannelBinding, PostgresConfig, TlsMode};
pub use guard::GuardedTransaction;
pub use key::AdvisoryKey;
pub use tenure_kit::Tls;
// Its configuration is what `PostgresConfig::from_client_config` takes.
pub use tokio_postgres;
