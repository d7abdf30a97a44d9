//! A fenced write: what a leader of before sends late is refused by the resource itself.
//!
//! The resource keeps the largest token it has seen beside its data, and compares it **in the same
//! statement** that writes. Two rules:
//!
//! 1. A new leader enters its token *before* it reads; otherwise a late write of the old one can
//!    land after the reading, and is lost by the next write.
//! 2. Every write is on condition that no larger token was entered.
//!
//! Here the resource is an SQL table, and the statements are the same on any SQL database. Others
//! need the same comparison: a conditional put of an object store, a script in Redis. Where the
//! election is on Postgres or etcd and the data is there too, their backends have a fence of their
//! own, which needs no token in the data: see `docs/reference/backends`.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};
use tenure::FencingToken;

/// A balance that only the leader changes.
#[derive(Debug)]
pub struct Account(Connection);

/// Why a leader cannot go on.
#[derive(Debug)]
pub enum Refused {
    /// A later leader was here: stop, and campaign again.
    Past,
    /// The database does not answer, or not as it should.
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl Account {
    /// The account in a file, which is made if there is none.
    pub fn open(file: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        connection.busy_timeout(Duration::from_secs(1))?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER, token INTEGER);
             INSERT OR IGNORE INTO account VALUES (1, 0, 0);",
        )?;
        Ok(Self(connection))
    }

    /// The first thing in a term: from here on all earlier leaders are refused. Gives the balance.
    pub fn enter(&self, token: FencingToken) -> Result<i64, Refused> {
        self.0
            .query_row(
                "UPDATE account SET token = ?1 WHERE id = 1 AND token <= ?1 RETURNING balance",
                [token.as_i64()],
                |row| row.get(0),
            )
            .optional()?
            .ok_or(Refused::Past)
    }

    /// A write, beside which the term was asked for a permit.
    pub fn set_balance(&self, balance: i64, token: FencingToken) -> Result<(), Refused> {
        let written = self.0.execute(
            "UPDATE account SET balance = ?1, token = ?2 WHERE id = 1 AND token <= ?2",
            params![balance, token.as_i64()],
        )?;
        if written == 1 {
            Ok(())
        } else {
            Err(Refused::Past)
        }
    }
}
