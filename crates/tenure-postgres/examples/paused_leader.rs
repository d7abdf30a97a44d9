//! A leader is paused for longer than its lease, and finds that its writes are refused.
//!
//! `cargo run -p tenure-postgres --example paused_leader -- postgres://user:password@host/database`
//!
//! The leader is another process, which is really stopped (`kill -STOP`) in the middle of a
//! transaction. Meanwhile this process is elected. Two writes of the former leader are refused
//! when it runs on: that transaction, since it is one of the session that had held the lock, and
//! an update from another session, since the row carries a larger token. It makes, and drops, the
//! table `tenure_example`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "an example that cannot go on says why and ends"
)]

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use tenure_core::{Election, FencingToken, LockName, Policy};
use tenure_postgres::{PostgresBackend, PostgresConfig};
use tokio_postgres::{Client, NoTls};

const CHILD: &str = "TENURE_EXAMPLE_LEADER";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let url = std::env::args().nth(1).expect("the URL of a database");
    if std::env::var_os(CHILD).is_some() {
        return lead_and_be_paused(&url).await;
    }
    let database = connect(&url).await;
    let table = "DROP TABLE IF EXISTS tenure_example; \
        CREATE TABLE tenure_example (balance text, fence int8); \
        INSERT INTO tenure_example VALUES ('untouched', 0)";
    database.batch_execute(table).await.unwrap();

    let mut former = Former::start(&url);
    println!("another process leads:          {}", former.says());
    println!("it writes, not yet committed:   {}", former.says());
    former.signal("STOP");
    println!("it is paused for longer than its lease");

    let backend = Arc::new(PostgresBackend::connect(config(&url)).await.unwrap());
    let election = election(backend.clone());
    let leadership = election.campaign().await.unwrap();
    println!("this process leads:             {}", leadership.token());
    let mut transaction = backend
        .begin(election.lock(), leadership.token())
        .await
        .unwrap();
    let fence = token(leadership.token());
    transaction
        .execute("UPDATE tenure_example SET fence = $1", &[&fence])
        .await
        .unwrap();
    transaction.commit().await.unwrap();

    former.signal("CONT");
    println!("the other process goes on, and commits:");
    println!("  {}", former.says());
    println!("it writes from another session, with its token:");
    println!("  {}", former.says());

    let row = database.query_one("SELECT balance, fence FROM tenure_example", &[]);
    let row = row.await.unwrap();
    let (balance, found): (String, i64) = (row.get(0), row.get(1));
    assert_eq!((balance.as_str(), found), ("untouched", fence));
    println!("the table is as this process has left it");
    leadership.resign().await.unwrap();
    let drop_table = "DROP TABLE tenure_example";
    database.batch_execute(drop_table).await.unwrap();
}

async fn lead_and_be_paused(url: &str) {
    let backend = Arc::new(PostgresBackend::connect(config(url)).await.unwrap());
    let election = election(backend.clone());
    let leadership = election.campaign().await.unwrap();
    println!("token {}", leadership.token());
    let lock = election.lock();
    let mut transaction = backend.begin(lock, leadership.token()).await.unwrap();
    let write = "UPDATE tenure_example SET balance = 'stale'";
    let rows = transaction.execute(write, &[]).await.unwrap();
    println!("{rows} row");

    // Here the process is stopped. Whoever holds up a transaction for a lease has lost it anyway.
    leadership.term().lost().await;
    match transaction.commit().await {
        Ok(()) => println!("committed, which must not be"),
        Err(error) => println!("refused: {error}"),
    }
    let database = connect(url).await;
    let fenced = "UPDATE tenure_example SET balance = 'stale', fence = $1 WHERE fence <= $1";
    let fence = token(leadership.token());
    match database.execute(fenced, &[&fence]).await.unwrap() {
        0 => println!("refused: the row carries a larger token"),
        _ => println!("written, which must not be"),
    }
}

fn token(token: FencingToken) -> i64 {
    i64::try_from(token.as_u64()).expect("tokens fit in a bigint")
}

fn config(url: &str) -> PostgresConfig {
    // The example's server may have been started just now.
    PostgresConfig::from_url(url).unwrap().quarantine(false)
}

fn election(backend: Arc<PostgresBackend>) -> Election {
    let lock = LockName::new("example.paused-leader").unwrap();
    let election = Election::builder(backend, lock).policy(Policy::fast());
    election.build().unwrap()
}

/// A session of the application's own.
async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The process that leads first; killed on drop.
struct Former {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Former {
    fn start(url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(url)
            .env(CHILD, "")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn says(&mut self) -> String {
        let line = self.lines.next().expect("the other process ended");
        line.unwrap()
    }

    fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}"));
        let status = kill.arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}
