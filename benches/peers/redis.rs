//! What the Redis backend costs beside the bare commands through the same client, beside `rslock`
//! and beside the crate `distributed-lock`, on a private server:
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench redis`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

use std::time::{Duration, Instant};

use async_trait::async_trait;
use distributed_lock_core::traits::{DistributedLock as _, LockHandle as _, LockProvider as _};
use distributed_lock_redis::{RedisDistributedLock, RedisLockHandle, RedisLockProvider};
use futures_util::{StreamExt as _, future};
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{Cmd, Script, cmd};
use rslock::LockManager;
use tenure_benches::beside::{
    CALL, Connects, Lock, Pair, Pause, Rest, Row, calls, connects, hand_overs, handed_over, rounds,
};
use tenure_benches::{LONG, is_asked, on_worker, ours, record, workers};
use tenure_testkit::redis::{Server, start};

/// What a lock with a fencing token cannot do without, in one step.
const WITH_TOKEN: &str = "
if redis.call('GET', KEYS[1]) then return 0 end
local token = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1] .. token, 'PX', ARGV[2])
return token";

/// What it cannot do without where a failover may forget it: the server's epoch, beside the token.
const WITH_EPOCH: &str = "
if redis.call('GET', KEYS[1]) then return 0 end
local info = redis.call('INFO', 'replication')
local _, at = string.find(info, 'master_replid:', 1, true)
local token = redis.call('INCR', KEYS[2])
local epoch = string.sub(info, at + 1, at + 40)
redis.call('SET', KEYS[1], ARGV[1] .. token .. epoch, 'PX', ARGV[2])
return token";

/// A renewal that cannot lengthen somebody else's lease.
const IF_MINE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/// A server that keeps everything in memory, where nothing hides what a call costs, and one as the
/// backend's page asks for, which answers when a write is on its disk.
const SERVERS: [(&[&str], &str); 2] = [
    (&[], "in memory"),
    (
        &["--appendonly", "yes", "--appendfsync", "always"],
        "appendfsync always",
    ),
];

const BARE: &str = "bare commands, no token (floor)";
const TOKEN: &str = "bare scripts with a token, renewed if it is mine (floor with a token)";
const EPOCH: &str = "bare scripts with the epoch too (floor of a safe lock)";

fn main() {
    if !is_asked() {
        return;
    }
    on_worker(&workers(), async {
        for (arguments, disk) in SERVERS {
            let Some(server) = start(arguments) else {
                return;
            };
            let of = format!(", {disk}");
            calls(&of, None, rows(&server).await).await;
            calls(&of, Some(&Pause), rows(&server).await).await;
            let table = format!("From the end of one holder to the next{of}");
            hand_overs(
                &table,
                Duration::from_millis(20),
                &Pause,
                &pairs(&url(&server)),
            )
            .await;
        }
        takeovers().await;
        many().await;
    });
}

fn url(server: &Server) -> String {
    format!("redis://{}", server.address())
}

/// With the client's own deadlines, as an application has them.
async fn bare(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

fn millis() -> String {
    LONG.as_millis().to_string()
}

async fn rows(server: &Server) -> Vec<Row<Box<dyn Lock>>> {
    let url = url(server);
    let lock = async |scripts| Box::new(Bare::new(&url, scripts).await);
    let provider = RedisLockProvider::builder().url(&url).expiry(LONG);
    let distributed = provider.build().await.unwrap().create_lock("calls");
    let rslock = LockManager::new(vec![url.clone()]);
    vec![
        Row::new(BARE, lock(None).await as Box<dyn Lock>),
        Row::new("tenure", ours::Calls::boxed(&url).await)
            .at_most(
                CALL,
                BARE,
                &[
                    "the bare command gives no fencing token; a token takes a counter beside the \
                     lock, and so a script",
                    "the bare command would lengthen a successor's lease; a renewal that cannot \
                     needs a script",
                ],
            )
            .at_most(
                CALL,
                TOKEN,
                &[
                    "the rest of the script: it adopts an earlier attempt, asks the server for \
                     its epoch, so that a failover that lost a lock gives it to nobody for a \
                     lease, and takes the token from the server's clock where the counter was lost",
                    "the script makes the same two calls; the rest is on our side: the whole \
                     record is put together and sent to be compared",
                ],
            )
            .at_most(
                CALL,
                EPOCH,
                &["the rest of the script: it adopts an earlier attempt, takes the token from the \
                   server's clock where the counter was lost, and keeps the lease and the \
                   holder's name beside it"],
            ),
        Row::new("rslock, no token", Box::new(Rslock(rslock, None)) as Box<dyn Lock>).beside(BARE),
        Row::new("distributed-lock, no token", Box::new(Distributed(distributed, None)) as _)
            .beside(BARE),
        Row::new(TOKEN, lock(Some(WITH_TOKEN)).await as _).beside(BARE),
        Row::new(EPOCH, lock(Some(WITH_EPOCH)).await as _).beside(BARE),
    ]
}

/// The bare commands, or the script that acquires and the one that renews.
struct Bare {
    connection: MultiplexedConnection,
    key: String,
    acquire: Option<Script>,
    renew: Script,
    /// What a renewal compares.
    mine: Option<String>,
}

impl Bare {
    async fn new(url: &str, acquire: Option<&str>) -> Self {
        let mut connection = bare(url).await;
        let acquire = acquire.map(Script::new);
        let renew = Script::new(IF_MINE);
        for script in acquire.iter().chain([&renew]) {
            script.load_async(&mut connection).await.unwrap();
        }
        Self {
            connection,
            key: format!("bare-{:08x}", fastrand::u32(..)),
            acquire,
            renew,
            mine: None,
        }
    }

    async fn send(&mut self, command: &Cmd) {
        command
            .query_async::<()>(&mut self.connection)
            .await
            .unwrap();
    }
}

#[async_trait]
impl Lock for Bare {
    async fn acquire(&mut self) {
        let Some(script) = &self.acquire else {
            let mut set = cmd("SET");
            set.arg(&self.key)
                .arg("owner")
                .arg("NX")
                .arg("PX")
                .arg(millis());
            return self.send(&set).await;
        };
        let mut call = script.prepare_invoke();
        call.key(&self.key).key(format!("{}:n", self.key));
        call.arg("owner").arg(millis());
        let token: u64 = call.invoke_async(&mut self.connection).await.unwrap();
        assert!(token > 0);
        self.mine = Some(format!("owner{token}"));
    }

    async fn renew(&mut self) -> bool {
        if self.acquire.is_none() {
            let mut expire = cmd("PEXPIRE");
            expire.arg(&self.key).arg(millis());
            self.send(&expire).await;
            return true;
        }
        let mut call = self.renew.prepare_invoke();
        call.key(&self.key).arg(&self.mine).arg(millis());
        let same: u64 = call.invoke_async(&mut self.connection).await.unwrap();
        // With the epoch in it only the server knows what is there.
        same == 1
    }

    async fn release(&mut self) {
        let mut delete = cmd("DEL");
        delete.arg(&self.key);
        self.send(&delete).await;
    }
}

struct Rslock(LockManager, Option<rslock::Lock>);

#[async_trait]
impl Lock for Rslock {
    async fn acquire(&mut self) {
        self.1 = Some(self.0.lock("rslock", LONG).await.unwrap());
    }

    async fn renew(&mut self) -> bool {
        let held = self.1.take().unwrap();
        self.1 = Some(self.0.extend(&held, LONG).await.unwrap());
        true
    }

    async fn release(&mut self) {
        self.1.take().unwrap().release().await;
    }
}

struct Distributed(RedisDistributedLock, Option<RedisLockHandle>);

#[async_trait]
impl Lock for Distributed {
    async fn acquire(&mut self) {
        self.1 = Some(self.0.try_acquire().await.unwrap().unwrap());
    }

    async fn release(&mut self) {
        self.1.take().unwrap().release().await.unwrap();
    }
}

fn pairs(url: &str) -> Vec<Row<Connects>> {
    const FLOOR: &str = "bare PUBLISH, wake, script with a token (floor)";
    let (floor, polling) = (url.to_owned(), url.to_owned());
    let whys: [&[&str]; 2] = [
        &[
            "a release is a write, which such a server keeps on its disk before it tells of it; the \
           floor's message is none",
        ],
        &[
            "as the row above; and the engine's task is woken by the message, and wakes the \
           application's task when it has the lock",
        ],
    ];
    let mut rows = vec![Row::new(FLOOR, connects(move || Floor::new(floor.clone())))];
    rows.extend(ours::pairs(url, &[(FLOOR, whys)]));
    // `distributed-lock` does not wait for a lock that is taken.
    let polling = connects(move || {
        let managers = [(); 2].map(|()| LockManager::new(vec![polling.clone()]));
        future::ready(Polling(managers))
    });
    let row = Row::new("rslock (polls), no token", polling);
    rows.push(row.beside(FLOOR).peer("").slow());
    rows
}

/// One that publishes, and one that waits for that.
struct Floor {
    publisher: MultiplexedConnection,
    waiter: Option<(PubSubStream, Bare)>,
}

impl Floor {
    async fn new(url: String) -> Self {
        let client = redis::Client::open(&*url).unwrap();
        let mut subscriber = client.get_async_pubsub().await.unwrap();
        subscriber.subscribe("bare").await.unwrap();
        let waiter = Bare::new(&url, Some(WITH_TOKEN)).await;
        Self {
            publisher: bare(&url).await,
            waiter: Some((subscriber.into_on_message(), waiter)),
        }
    }
}

#[async_trait]
impl Pair for Floor {
    async fn hand_over(&mut self, wait: Duration, rest: &dyn Rest) -> Duration {
        let (mut messages, mut lock) = self.waiter.take().unwrap();
        let waiting = tokio::spawn(async move {
            messages.next().await.unwrap();
            lock.acquire().await;
            (Instant::now(), (messages, lock))
        });
        let mut publish = cmd("PUBLISH");
        publish.arg("bare").arg("");
        let publish = publish.query_async::<()>(&mut self.publisher);
        let (taken, published, next) = handed_over((wait, rest), publish, waiting).await;
        published.unwrap();
        self.waiter.insert(next).1.release().await;
        taken
    }
}

struct Polling([LockManager; 2]);

#[async_trait]
impl Pair for Polling {
    async fn hand_over(&mut self, _: Duration, rest: &dyn Rest) -> Duration {
        let [first, second] = self.0.clone();
        let guard = first.acquire("hand-over", LONG).await.unwrap();
        let waiting = tokio::spawn(async move {
            let guard = second.acquire("hand-over", LONG).await.unwrap();
            let at = Instant::now();
            guard.release().await;
            (at, ())
        });
        // Some moment between two looks.
        let wait = Duration::from_millis(fastrand::u64(20..250));
        handed_over((wait, rest), guard.release(), waiting).await.0
    }
}

/// From the end of a silent leader's lease to the next one's election, by an election that waits.
async fn takeovers() {
    const LEASE: Duration = Duration::from_millis(100);
    let server = start(&[]).unwrap();
    let backend = ours::connect(&url(&server)).await;
    let name = ours::lock("takeovers");
    let mut after = Vec::new();
    for _ in 0..rounds() {
        let silent = ours::candidate(&ours::identity(0));
        // Before the server begins to count, so the figures are rather too large.
        let began = Instant::now();
        ours::held(backend.acquire(&name, &silent, LEASE).await.unwrap());
        let election = ours::election(backend.clone(), name.clone(), &ours::patient());
        let leader = election.campaign().await.unwrap();
        after.push(began.elapsed().saturating_sub(LEASE));
        leader.resign().await.unwrap();
    }
    let table = "When a leader has fallen silent";
    record::series(table, "tenure: end of the lease to the next leader", &after);
}

/// Many elections in one process, over one connection.
async fn many() {
    const ELECTIONS: u32 = 10_000;
    let server = start(&[]).unwrap();
    let backend = ours::connect(&url(&server)).await;
    let campaigns = (0..ELECTIONS).map(|_| {
        let election = ours::election(backend.clone(), ours::lock("many"), &ours::patient());
        async move { election.campaign().await.unwrap() }
    });
    let leaders = future::join_all(campaigns).await;
    let mut taken = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let confirmed = future::join_all(leaders.iter().map(|leader| leader.confirm())).await;
        taken.push(began.elapsed());
        let failed = confirmed.into_iter().find_map(Result::err);
        assert!(failed.is_none(), "{failed:?}");
    }
    let table = format!("{ELECTIONS} elections in one process");
    record::series(&table, "tenure: a heartbeat of all of them at once", &taken);
    // But for the one that asks.
    let clients = server.text(&["CLIENT", "LIST"]).lines().count() - 1;
    record::figure(
        &table,
        "connections",
        f64::from(u32::try_from(clients).unwrap()),
        "",
    );
}
