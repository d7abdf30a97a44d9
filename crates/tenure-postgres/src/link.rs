//! One connection to a server that is fit to hold locks: dialled, logged in and checked.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure_core::{ErrorKind, Kept};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Notification, SimpleQueryMessage};

use crate::cluster::Cluster;
use crate::config::{Address, PostgresConfig, TlsMode};
use crate::errors::Trouble;
use crate::tasks::Tasks;

/// The channel on which sessions tell each other of locks.
pub(crate) const CHANNEL: &str = "tenure";

/// The oldest server that ends idle sessions by itself.
const FIRST_WITH_LEASE: u32 = 14_00_00;

/// What is done with each notification.
pub(crate) type Listener = Arc<dyn Fn(&Notification) + Send + Sync>;

/// A session at the server. Ends with this value, but not with a forked child's copy of it.
pub(crate) struct Link {
    live: Kept<Live>,
    /// Which host of the list it leads to.
    pub(crate) address: Address,
    /// The session's process at the server.
    pub(crate) pid: i32,
    /// Since when the server has kept its locks, as its own text.
    pub(crate) reign: String,
    /// How long that had been, and when it was asked.
    age: (Duration, Instant),
    /// Whether it tells of all by which it can lose them.
    pub(crate) sees_restarts: bool,
}

struct Live {
    client: Client,
    ended: watch::Sender<Option<Trouble>>,
    connection: AbortHandle,
}

impl Link {
    pub(crate) fn client(&self) -> &Client {
        &self.live.client
    }

    /// Why the session has ended, if it has.
    pub(crate) fn ended(&self) -> Option<Trouble> {
        self.live.ended.borrow().clone()
    }

    /// For how long at least the server has lost no lock.
    pub(crate) fn age(&self) -> Duration {
        let (age, asked) = self.age;
        age + asked.elapsed()
    }

    /// Returns when the session has ended.
    pub(crate) fn end(&self) -> impl Future<Output = Trouble> + Send + use<> {
        let mut ended = self.live.ended.subscribe();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(trouble) => trouble.clone().unwrap_or_else(Trouble::closed),
                Err(_) => Trouble::closed(),
            }
        }
    }

    /// Ends the session; the server then frees what it holds.
    pub(crate) fn close(&self, trouble: &Trouble) {
        note_end(&self.live.ended, trouble);
        self.live.connection.abort();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn note_end(ended: &watch::Sender<Option<Trouble>>, trouble: &Trouble) {
    // The first reason is the true one; what follows from it comes later.
    ended.send_if_modified(|known| {
        let first = known.is_none();
        if first {
            *known = Some(trouble.clone());
        }
        first
    });
}

/// Connects to the first host that can be written to. Each has the connect timeout.
pub(crate) async fn connect(
    config: &PostgresConfig,
    cluster: &Cluster,
    listener: Listener,
) -> Result<Link, Trouble> {
    if let Some(trouble) = cluster.refused() {
        return Err(trouble);
    }
    let mut failed: Option<(Trouble, String)> = None;
    for address in &config.hosts {
        let attempt = connect_to(config, cluster, address, listener.clone());
        // The deadline covers name resolution, TLS, login and checks (hazard 6).
        let trouble = match tokio::time::timeout(config.connect_timeout, attempt).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(trouble)) => trouble,
            Err(_) => Trouble::silent(&format!("{address}"), config.connect_timeout).of_the_host(),
        };
        if let Some(trouble) = cluster.refused() {
            // It names both hosts.
            return Err(trouble);
        }
        let told = format!("{address}: {}", trouble.message());
        if !trouble.is_of_the_host {
            return Err(Trouble::retold(trouble, told));
        }
        failed = Some(match failed {
            // A standby says less than the reason why the others do not serve.
            Some((first, before)) => {
                let worse = if first.is_standby() { trouble } else { first };
                (worse, format!("{before}; {told}"))
            }
            None => (trouble, told),
        });
    }
    Err(match failed {
        Some((trouble, told)) => Trouble::retold(trouble, told),
        None => Trouble::new(ErrorKind::Misconfigured, "no host is configured"),
    })
}

async fn connect_to(
    config: &PostgresConfig,
    cluster: &Cluster,
    address: &Address,
    listener: Listener,
) -> Result<Link, Trouble> {
    let link = log_in(config, cluster, address, listener).await?;
    check(config, cluster, link).await
}

/// What a server is, whether it can hold locks or not.
pub(crate) struct Server {
    /// Of its cluster, unless it keeps that to itself.
    pub(crate) identifier: Option<String>,
    pub(crate) accepts_writes: bool,
    /// When it was started, as its own text.
    pub(crate) start: String,
}

/// Asks one host what it is, within the connect timeout.
pub(crate) async fn look_at(config: &PostgresConfig, address: &Address) -> Result<Server, Trouble> {
    let looking = async {
        let silent: Listener = Arc::new(|_| {});
        // Compared by the caller.
        let link = log_in(config, &Cluster::new(), address, silent).await?;
        let question = "SELECT NOT pg_is_in_recovery(), \
                        extract(epoch FROM pg_postmaster_start_time())";
        let answer = link.client().simple_query(question).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)? == "t", row.get(1)?.to_owned())),
            _ => None,
        });
        let (accepts_writes, start) =
            row.ok_or_else(|| Trouble::unreadable("the time of its start"))?;
        Ok(Server {
            identifier: identifier(link.client()).await?,
            accepts_writes,
            start,
        })
    };
    let limit = config.connect_timeout;
    tokio::time::timeout(limit, looking)
        .await
        .unwrap_or_else(|_| Err(Trouble::silent(&address.to_string(), limit)))
}

/// Which cluster the server belongs to. A replica tells its primary's; `None` where the user may
/// not ask, or a server that only resembles `PostgreSQL` does not know.
async fn identifier(client: &Client) -> Result<Option<String>, Trouble> {
    let question = "SELECT system_identifier::text FROM pg_control_system()";
    let answer = match client.simple_query(question).await {
        Ok(answer) => answer,
        Err(error) => {
            let trouble = Trouble::from(error);
            return if trouble.is_of_the_question() {
                tracing::debug!(reason = trouble.message(), "no system identifier");
                Ok(None)
            } else {
                Err(trouble)
            };
        }
    };
    Ok(answer.iter().find_map(|message| match message {
        // Another's text, which is shown.
        SimpleQueryMessage::Row(row) => row.get(0).map(|text| text.escape_debug().to_string()),
        _ => None,
    }))
}

async fn log_in(
    config: &PostgresConfig,
    cluster: &Cluster,
    address: &Address,
    listener: Listener,
) -> Result<Link, Trouble> {
    let mut client_config = tokio_postgres::Config::new();
    client_config
        .host(&address.host)
        .port(address.port)
        .connect_timeout(config.connect_timeout)
        // Without these a cut network would be noticed by the next deadline only.
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(2)
        .application_name("tenure");
    let user = config.user.clone().or_else(|| from_env("PGUSER"));
    if let Some(user) = &user {
        client_config.user(user);
    }
    let database = config.database.clone().or_else(|| from_env("PGDATABASE"));
    if let Some(database) = &database {
        client_config.dbname(database);
    }
    if let Some(options) = &config.options {
        client_config.options(options);
    }
    let database = database.as_deref().or(user.as_deref()).unwrap_or_default();
    if let Some(password) = password(config, address, database, user.as_deref()).await? {
        client_config.password(password);
    }
    let driver = Driver {
        address: address.clone(),
        listener,
        refusal: Box::pin(cluster.refusal()),
    };
    match config.tls {
        _ if address.is_socket() => plain(&mut client_config, driver).await,
        TlsMode::Disable => plain(&mut client_config, driver).await,
        mode => encrypted(mode, config, &mut client_config, driver).await,
    }
}

async fn plain(
    client_config: &mut tokio_postgres::Config,
    driver: Driver,
) -> Result<Link, Trouble> {
    client_config.ssl_mode(SslMode::Disable);
    let (client, connection) = client_config.connect(NoTls).await?;
    Ok(driver.drive(client, connection))
}

#[cfg(feature = "_tls")]
async fn encrypted(
    mode: TlsMode,
    config: &PostgresConfig,
    client_config: &mut tokio_postgres::Config,
    driver: Driver,
) -> Result<Link, Trouble> {
    client_config.ssl_mode(if mode == TlsMode::Require {
        SslMode::Require
    } else {
        SslMode::Prefer
    });
    let tls = crate::tls::Tls::new(config)?;
    let (client, connection) = client_config.connect(tls).await?;
    Ok(driver.drive(client, connection))
}

/// `Require` has been refused before.
#[cfg(not(feature = "_tls"))]
async fn encrypted(
    _mode: TlsMode,
    _config: &PostgresConfig,
    client_config: &mut tokio_postgres::Config,
    driver: Driver,
) -> Result<Link, Trouble> {
    plain(client_config, driver).await
}

fn from_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What runs a connection once it is logged in.
struct Driver {
    address: Address,
    listener: Listener,
    /// Returns when no connection of this backend may live.
    refusal: Pin<Box<dyn Future<Output = Trouble> + Send>>,
}

impl Driver {
    /// The connection's own task: its end is the end of everything the session holds.
    fn drive<S, T>(mut self, client: Client, mut connection: Connection<S, T>) -> Link
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ended = watch::Sender::new(None);
        let told = ended.clone();
        let tasks = Tasks::here();
        let (address, listener) = (self.address, self.listener);
        let task = tasks.spawn(async move {
            let trouble = loop {
                let message = tokio::select! {
                    trouble = &mut self.refusal => break trouble,
                    message = poll_fn(|cx| connection.poll_message(cx)) => message,
                };
                match message {
                    Some(Ok(AsyncMessage::Notification(notification))) => listener(&notification),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break Trouble::from(error),
                    None => break Trouble::closed(),
                }
            };
            tracing::debug!(reason = trouble.message(), "a session has ended");
            // Before the connection, with which the server frees the locks, is dropped.
            note_end(&told, &trouble);
        });
        Link {
            live: tasks.process.keep(Live {
                client,
                ended,
                connection: task.abort_handle(),
            }),
            address,
            pid: 0,
            reign: String::new(),
            age: (Duration::ZERO, Instant::now()),
            sees_restarts: false,
        }
    }
}

/// Refuses servers on which locks would not exclude, expire or fence as promised.
async fn check(
    config: &PostgresConfig,
    cluster: &Cluster,
    mut link: Link,
) -> Result<Link, Trouble> {
    // No prepared statement yet: a pooler could send its parts to different sessions.
    let answer = link
        .client()
        .simple_query(
            "SELECT current_setting('server_version_num'), pg_is_in_recovery()::text, \
             current_setting('transaction_read_only'), pg_backend_pid()::text, \
             current_setting('synchronous_commit')",
        )
        .await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let unreadable = || Trouble::unreadable("the first question");
    let row = row.ok_or_else(unreadable)?;
    let text = |index| row.try_get(index).ok().flatten().ok_or_else(unreadable);
    link.pid = text(3)?.parse().map_err(|_| unreadable())?;
    let version = text(0)?.parse().map_err(|_| unreadable())?;
    check_version(config, version)?;
    let told = identifier(link.client()).await?;
    cluster.note(&link.address, told.as_deref())?;
    if text(1)? != "false" || text(2)? != "off" {
        return Err(Trouble::standby());
    }
    if text(4)? == "off" {
        return Err(Trouble::new(
            ErrorKind::Misconfigured,
            "synchronous_commit is off, so a crash of the server could give a fencing token \
             twice; set it on for this role (ALTER ROLE ... SET synchronous_commit = on) or in the \
             URL (options=-c%20synchronous_commit%3Don)",
        ));
    }
    let announced = announced_pid(link.client()).await;
    if announced != Some(link.pid) && !config.session_pooler {
        return Err(Trouble::new(
            ErrorKind::Unsupported,
            "there is a connection pooler in between: in transaction mode two candidates would \
             get the same lock; connect to the server itself, or say that the pooler is in \
             session mode (pooler=session in the URL)",
        ));
    }
    let reign = reign(link.client()).await?;
    link.reign = reign.id;
    link.age = (reign.age, Instant::now());
    link.sees_restarts = reign.sees_restarts;
    Ok(link)
}

/// What a server tells of when it last lost its locks.
struct Reign {
    id: String,
    age: Duration,
    sees_restarts: bool,
}

/// Since when the server has lost no lock, and how long that is: since it was started, since all
/// its sessions were ended because one had crashed (which resets the statistics, and not the time
/// of the start), or since it was promoted (which a checkpoint on the new timeline follows; its
/// time is in whole seconds).
///
/// What it does not tell may have happened just now, so the age is then none.
async fn reign(client: &Client) -> Result<Reign, Trouble> {
    const START: &str = "pg_postmaster_start_time()";
    const CRASH: &str = "(SELECT stats_reset FROM pg_stat_bgwriter)";
    const PROMOTION: &str = "(SELECT CASE WHEN pg_last_wal_replay_lsn() IS NULL THEN NULL \
        WHEN timeline_id = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int4 \
        THEN checkpoint_time + interval '1 s' ELSE clock_timestamp() END FROM pg_control_checkpoint())";
    let id = |time: &str| format!("extract(epoch FROM {time})::text");
    let start_and_crash = format!("concat_ws(' ', {}, {})", id(START), id(CRASH));
    // Rounded down; and not by the session's time zone or style.
    let age = format!(
        "floor(extract(epoch FROM clock_timestamp() - greatest({START}, {CRASH}, {PROMOTION})) \
         * 1000)::int8::text"
    );
    let questions = [
        (start_and_crash.clone(), age, true),
        (start_and_crash, "0".to_owned(), false),
        (id(START), "0".to_owned(), false),
    ];
    let mut refused = None;
    for (id, age, sees_restarts) in questions {
        let answer = match client.simple_query(&format!("SELECT {id}, {age}")).await {
            Ok(answer) => answer,
            Err(error) if error.as_db_error().is_some() => {
                // A server that keeps this to itself, or only resembles PostgreSQL.
                tracing::debug!(%error, "not all times of the server's crash and promotion");
                refused = Some(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((row.get(0)?.to_owned(), row.get(1)?.parse().ok()))
            }
            _ => None,
        });
        let (id, age) = row.ok_or_else(|| Trouble::unreadable("the time of its start"))?;
        return Ok(Reign {
            id,
            // When the server's own clock was set back its age is negative, and counts as none.
            age: Duration::from_millis(age.unwrap_or(0)),
            sees_restarts,
        });
    }
    Err(refused.map_or_else(
        || Trouble::unreadable("the time of its start"),
        Trouble::from,
    ))
}

fn check_version(config: &PostgresConfig, version: u32) -> Result<(), Trouble> {
    if version >= FIRST_WITH_LEASE || config.without_lease {
        return Ok(());
    }
    Err(Trouble::new(
        ErrorKind::Unsupported,
        format!(
            "the server is PostgreSQL {}, and only 14 and newer end the session of a holder that \
             has fallen silent; upgrade it, or accept that a frozen holder keeps its lock \
             (server_lease=off in the URL)",
            version / 10_000
        ),
    ))
}

/// The process id that came with the login, which a pooler makes up (hazard 29). The client keeps
/// it to itself, but writes it into a request to cancel, which here goes nowhere.
async fn announced_pid(client: &Client) -> Option<i32> {
    const SSL_REQUEST: u32 = 80_877_103;

    let (near, mut far) = tokio::io::duplex(64);
    let cancel = client.cancel_token();
    let request = cancel.cancel_query_raw(near, NoHandshake);
    let reading = async move {
        let code = read_code(&mut far).await?;
        if code == SSL_REQUEST {
            far.write_all(b"S").await.ok()?;
            read_code(&mut far).await?;
        }
        far.read_i32().await.ok()
    };
    // The pipe's other end is dropped after reading, which the writer may see as an error.
    let (_written, pid) = tokio::join!(request, reading);
    pid
}

/// The second of a message's first two numbers.
async fn read_code(stream: &mut DuplexStream) -> Option<u32> {
    let _length = stream.read_u32().await.ok()?;
    stream.read_u32().await.ok()
}

struct NoHandshake;

impl TlsConnect<DuplexStream> for NoHandshake {
    type Stream = Bare;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Bare, std::io::Error>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        std::future::ready(Ok(Bare(stream)))
    }
}

struct Bare(DuplexStream);

impl TlsStream for Bare {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

mod bare_io {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Bare;

    impl AsyncRead for Bare {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Bare {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
}

async fn password(
    config: &PostgresConfig,
    address: &Address,
    database: &str,
    user: Option<&str>,
) -> Result<Option<String>, Trouble> {
    if let Some(password) = &config.password {
        return Ok(Some(password.clone()));
    }
    let unreadable = |file: &std::path::Path, error: std::io::Error| {
        let message = format!(
            "the password file {} cannot be read: {error}",
            file.display()
        );
        Trouble::new(ErrorKind::Misconfigured, message).caused_by(error)
    };
    if let Some(file) = &config.password_file {
        let text = read(file).await.map_err(|error| unreadable(file, error))?;
        return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
    }
    let passfile = config.passfile.clone();
    if let Some(file) = passfile.or_else(|| from_env("PGPASSFILE").map(Into::into)) {
        let text = read(&file)
            .await
            .map_err(|error| unreadable(&file, error))?;
        let port = address.port.to_string();
        let wanted = [&address.host, &port, database, user.unwrap_or_default()];
        if let Some(password) = find_password(&text, wanted) {
            return Ok(Some(password));
        }
    }
    Ok(from_env("PGPASSWORD"))
}

/// On a thread for blocking calls: the file may be on a network file system.
async fn read(file: &std::path::Path) -> std::io::Result<String> {
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || std::fs::read_to_string(file))
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// The password of the first line whose four fields are `wanted` or `*`.
fn find_password(passfile: &str, wanted: [&str; 4]) -> Option<String> {
    passfile
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let mut fields = vec![String::new()];
            let mut characters = line.chars();
            while let Some(c) = characters.next() {
                match c {
                    '\\' => fields.last_mut()?.extend(characters.next()),
                    ':' if fields.len() < 5 => fields.push(String::new()),
                    c => fields.last_mut()?.push(c),
                }
            }
            let [fields @ .., password] = fields.as_slice() else {
                return None;
            };
            let fits = fields.len() == 4
                && fields
                    .iter()
                    .zip(wanted)
                    .all(|(field, wanted)| field == "*" || field == wanted);
            fits.then(|| password.clone())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passfiles_are_read_as_libpq_reads_them() {
        let file = "# a comment\nh:1:db:ann:one\n*:*:db:ann:t\\:wo:\nshort:line\n";
        let find = |host, port| find_password(file, [host, port, "db", "ann"]);
        assert_eq!(find("h", "1").as_deref(), Some("one"));
        assert_eq!(find("h", "2").as_deref(), Some("t:wo:"));
        assert_eq!(find_password(file, ["h", "1", "db", "bob"]), None);
    }

    #[test]
    fn servers_without_a_lease_need_the_explicit_choice() {
        let config = PostgresConfig::server("a").unwrap();
        assert!(check_version(&config, 14_00_00).is_ok());
        let refused = check_version(&config, 13_00_12).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unsupported);
        assert!(refused.message().contains("PostgreSQL 13"));
        assert!(check_version(&config.without_server_lease(true), 13_00_12).is_ok());
    }
}
