//! What the etcd backend costs beside the bare requests through the same client, beside the
//! election API of `etcd-client` and beside Go's `concurrency.Election`, on a private server; how
//! soon a killed leader is followed, and ten thousand elections in one process:
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench etcd`.
//!
//! `TENURE_BENCH_ONLY` may name some of its parts: `calls,handovers,failover,many`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

mod many;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, LeaseKeepAliveStream, LeaseKeeper,
    LeaseTimeToLiveOptions, PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp,
    WatchStream,
};
use futures_util::future;
use tenure_benches::beside::{
    CALL, Connects, Lock, Pair, Pause, Rest, Row, calls, connects, hand_overs, handed_over, rounds,
};
use tenure_benches::contenders::{End, contends, failover};
use tenure_benches::{LONG, is_asked, on_worker, ours, record, wants, workers};
use tenure_testkit::etcd::{Cluster, start};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Servers bring watches of revisions that have passed up to date every 100 ms; those of the peers
/// are such. So it counts how long the second has waited.
const WAITS: [Duration; 2] = [Duration::from_millis(3), Duration::from_millis(150)];

const BARE: &str = "bare request (floor)";
const PROVING: &str = "bare request, with what proves it (floor of a safe lock)";

fn main() {
    if contends() || !is_asked() {
        return;
    }
    let wanted = |part| wants("TENURE_BENCH_ONLY", part);
    let (calling, handing) = (wanted("calls"), wanted("handovers"));
    let (killing, many) = (wanted("failover"), wanted("many"));
    let Some(server) = start() else { return };
    let runtime = workers();
    on_worker(&runtime, async move {
        if calling {
            calls("", None, rows(&server).await).await;
            calls("", Some(&Pause), rows(&server).await).await;
        }
        if handing {
            let go = build_go(&server).await;
            for wait in WAITS {
                let table =
                    format!("From the end of one holder to the next, who has waited for {wait:?}");
                hand_overs(&table, wait, &Pause, &pairs(&server, go.as_deref())).await;
            }
        }
        if killing {
            failovers(&server.url()).await;
        }
    });
    if many {
        on_worker(&runtime, many::run());
    }
}

/// The client's own address of a server.
pub(crate) fn endpoint(server: &Cluster) -> String {
    format!("http://{}", server.members[0].address())
}

async fn leased(endpoint: &str) -> (Client, i64) {
    let mut client = Client::connect([endpoint], None).await.unwrap();
    let ttl = i64::try_from(LONG.as_secs()).unwrap();
    let lease = client.lease_grant(ttl, None).await.unwrap().id();
    (client, lease)
}

fn first_of() -> GetOptions {
    let options = GetOptions::new().with_prefix().with_limit(1);
    options.with_sort(SortTarget::Create, SortOrder::Ascend)
}

async fn rows(server: &Cluster) -> Vec<Row<Box<dyn Lock>>> {
    let endpoint = endpoint(server);
    let bare = async |proves| Box::new(Bare::new(&endpoint, proves).await);
    let (client, lease) = leased(&endpoint).await;
    let theirs = Campaigns {
        client,
        lease,
        won: None,
    };
    vec![
        Row::new(BARE, bare(false).await as Box<dyn Lock>),
        Row::new(PROVING, bare(true).await as _).beside(BARE),
        Row::new("tenure", ours::Calls::boxed(&server.url()).await)
            .at_most(
                CALL,
                BARE,
                &[
                    "the bare put does not tell who was first; the next row's floor does",
                    "a keepalive alone would not notice that a key was deleted, or that another \
                     member has followed the one that answers; ours asks for the lease's keys and \
                     for a majority too",
                ],
            )
            .at_most(CALL, PROVING, &[]),
        Row::new("etcd-client's election API", Box::new(theirs) as _).beside(BARE),
    ]
}

/// The bare requests, with their own client and lease. The fewest look at nothing. Those that prove
/// as much as a lock has to: who is first is read along with the put, the keys on the lease are
/// asked for with the keepalive, and a majority of the members with them, and only one's own key is
/// deleted.
struct Bare {
    client: Client,
    lease: i64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    proves: bool,
    key: String,
    revision: i64,
}

impl Bare {
    async fn new(endpoint: &str, proves: bool) -> Self {
        let (mut client, lease) = leased(endpoint).await;
        let (keeper, answers) = client.lease_keep_alive(lease).await.unwrap();
        Self {
            client,
            lease,
            keeper,
            answers,
            proves,
            key: format!("bare-{proves}/{lease:x}"),
            revision: 0,
        }
    }

    async fn keep_alive(&mut self) {
        self.keeper.keep_alive().await.unwrap();
        let answer = self.answers.message().await.unwrap().unwrap();
        assert!(answer.ttl() > 0);
    }
}

#[async_trait]
impl Lock for Bare {
    async fn acquire(&mut self) {
        let options = PutOptions::new().with_lease(self.lease);
        let mut then = vec![TxnOp::put(&*self.key, "ann", Some(options))];
        if self.proves {
            then.push(TxnOp::get(
                format!("bare-{}/", self.proves),
                Some(first_of()),
            ));
        }
        let absent = Compare::create_revision(&*self.key, CompareOp::Equal, 0);
        let put = Txn::new().when([absent]).and_then(then);
        let put = self.client.txn(put).await.unwrap();
        assert!(put.succeeded());
        self.revision = put.header().unwrap().revision();
    }

    async fn renew(&mut self) -> bool {
        if !self.proves {
            self.keep_alive().await;
            return true;
        }
        let (lease, key) = (self.lease, self.key.clone());
        let mut asking = self.client.lease_client();
        let options = LeaseTimeToLiveOptions::new().with_keys();
        let mut confirming = self.client.clone();
        let counting = GetOptions::new().with_count_only();
        let ((), keys, confirmed) = future::join3(
            self.keep_alive(),
            asking.time_to_live(lease, Some(options)),
            confirming.get(&*key, Some(counting)),
        )
        .await;
        assert_eq!(keys.unwrap().keys(), [key.as_bytes()]);
        assert_eq!(confirmed.unwrap().count(), 1);
        true
    }

    async fn release(&mut self) {
        if !self.proves {
            self.client.delete(&*self.key, None).await.unwrap();
            return;
        }
        let own = Compare::create_revision(&*self.key, CompareOp::Equal, self.revision);
        let delete = TxnOp::delete(&*self.key, None);
        let delete = Txn::new().when([own]).and_then([delete]);
        assert!(self.client.txn(delete).await.unwrap().succeeded());
    }
}

/// The election API of the client library, which campaigns at the server.
struct Campaigns {
    client: Client,
    lease: i64,
    won: Option<etcd_client::LeaderKey>,
}

#[async_trait]
impl Lock for Campaigns {
    async fn acquire(&mut self) {
        let won = self.client.campaign("theirs", "ann", self.lease).await;
        self.won = won.unwrap().take_leader();
    }

    async fn release(&mut self) {
        let options = ResignOptions::new().with_leader(self.won.take().unwrap());
        self.client.resign(Some(options)).await.unwrap();
    }
}

fn pairs(server: &Cluster, go: Option<&Path>) -> Vec<Row<Connects>> {
    const FLOOR: &str = "bare delete, its event elsewhere, a read (floor)";
    const ASKS: &str = "the peer takes the end of the one before it for its own lead. Ours asks the \
        store once more, so that a candidate whose lease has ended meanwhile never leads";
    let (one, other) = (endpoint(server), endpoint(server));
    let rivals = connects(move || Rivals::new(other.clone()));
    let mut rows = vec![Row::new(FLOOR, connects(move || Floor::new(one.clone())))];
    rows.extend(ours::pairs(&server.url(), &[(FLOOR, [&[], &[]])]));
    let row = Row::new("etcd-client: resign to the end of campaign", rivals);
    rows.push(row.beside(FLOOR).peer(ASKS));
    if let Some(program) = go {
        let (program, endpoint) = (program.to_owned(), endpoint(server));
        let go = connects(move || future::ready(Go::start(&program, &endpoint)));
        let row = Row::new("Go's concurrency.Election: Resign to Campaign's end", go);
        rows.push(row.beside(FLOOR).peer(ASKS));
    }
    rows
}

/// Leaders that are killed at any moment between two heartbeats, five at a time.
async fn failovers(url: &str) {
    for (seconds, name) in [(2, "a lease of 2 s"), (3, "of 3 s"), (5, "of 5 s")] {
        let lease = Duration::from_secs(seconds);
        let mut taken = Vec::new();
        for _ in 0..rounds().div_ceil(25).clamp(1, 4) {
            let wait = || lease + Duration::from_millis(fastrand::u64(..1000));
            let five = [(); 5].map(|()| failover(url, lease, End::Killed, wait()));
            taken.extend(future::join_all(five).await);
        }
        let table = "From kill -9 of the leader's process to the next leader";
        record::series(table, name, &taken);
        let bound = lease + Duration::from_secs(1);
        let within = taken.iter().filter(|taken| **taken <= bound).count();
        println!("    {within} of {} within the lease and 1 s", taken.len());
    }
}

/// One that deletes a key, and one that watches it and reads what is there then.
struct Floor {
    holder: Client,
    waiter: Option<(Client, WatchStream)>,
    key: String,
}

impl Floor {
    async fn new(endpoint: String) -> Self {
        let connect = async || Client::connect([&*endpoint], None).await.unwrap();
        let (holder, mut waiter) = (connect().await, connect().await);
        let key = format!("floor-{:08x}", fastrand::u32(..));
        let mut events = waiter.watch(&*key, None).await.unwrap();
        assert!(events.message().await.unwrap().unwrap().created());
        Self {
            holder,
            waiter: Some((waiter, events)),
            key,
        }
    }
}

#[async_trait]
impl Pair for Floor {
    async fn hand_over(&mut self, wait: Duration, rest: &dyn Rest) -> Duration {
        let ((mut waiter, mut events), key) = (self.waiter.take().unwrap(), self.key.clone());
        self.holder.put(&*key, "ann", None).await.unwrap();
        let put = events.message().await.unwrap().unwrap();
        assert_eq!(put.events()[0].event_type(), EventType::Put);
        let waiting = tokio::spawn(async move {
            let gone = events.message().await.unwrap().unwrap();
            assert_eq!(gone.events()[0].event_type(), EventType::Delete);
            let read = waiter.get(key, Some(first_of())).await.unwrap();
            assert!(read.kvs().is_empty());
            (Instant::now(), (waiter, events))
        });
        let delete = self.holder.delete(&*self.key, None);
        let (taken, gone, waiter) = handed_over((wait, rest), delete, waiting).await;
        gone.unwrap();
        self.waiter = Some(waiter);
        taken
    }
}

struct Rivals([(Client, i64); 2], String);

impl Rivals {
    async fn new(endpoint: String) -> Self {
        let name = format!("apis-{:08x}", fastrand::u32(..));
        Self([leased(&endpoint).await, leased(&endpoint).await], name)
    }
}

#[async_trait]
impl Pair for Rivals {
    async fn hand_over(&mut self, wait: Duration, rest: &dyn Rest) -> Duration {
        let Self([(first, lease), (second, next)], name) = self;
        let mut won = first.campaign(&**name, "ann", *lease).await.unwrap();
        let resign = |leader| Some(ResignOptions::new().with_leader(leader));
        let (mut waiter, next, election) = (second.clone(), *next, name.clone());
        let waiting = tokio::spawn(async move {
            let won = waiter.campaign(election, "bob", next).await.unwrap();
            (Instant::now(), won)
        });
        let leader = won.take_leader().unwrap();
        let end = first.resign(resign(leader));
        let (taken, resigned, mut won) = handed_over((wait, rest), end, waiting).await;
        resigned.unwrap();
        let leader = won.take_leader().unwrap();
        second.resign(resign(leader)).await.unwrap();
        taken
    }
}

/// etcd's own Go library: the program in `tests/etcd-go`; `None`, with a line that says so, where
/// there is no Go.
async fn build_go(server: &Cluster) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/etcd-go");
    let program = server.dir.path().join("etcd-go");
    let mut build = Command::new("go");
    build.current_dir(source).args(["build", "-o"]);
    match build.arg(&program).arg(".").status().await {
        Ok(status) => assert!(status.success(), "go build: {status}"),
        Err(error) => {
            println!("LEFT OUT: no Go to build etcd's own elections with: {error}");
            return None;
        }
    }
    Some(program)
}

struct Go {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Go {
    fn start(program: &Path, endpoint: &str) -> Self {
        let election = format!("go-{:08x}", fastrand::u32(..));
        let mut process = Command::new(program)
            .args(["--endpoint", endpoint.trim_start_matches("http://")])
            .args(["--election", &election])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            _process: process,
            input,
            output,
        }
    }
}

#[async_trait]
impl Pair for Go {
    /// As the program itself has measured it.
    async fn hand_over(&mut self, wait: Duration, _: &dyn Rest) -> Duration {
        let line = format!("{}\n", wait.as_millis());
        self.input.write_all(line.as_bytes()).await.unwrap();
        let nanos = self.output.next_line().await.unwrap().unwrap();
        Duration::from_nanos(nanos.parse().unwrap())
    }
}
