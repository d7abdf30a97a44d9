//! Connects to a server that is fit to hold locks: one that can be written to, with no pooler in
//! between, of the one cluster that this backend uses.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tenure_core::{ErrorKind, Process};
use tokio_postgres::config::SslMode;
use tokio_postgres::{CancelToken, Client, NoTls, SimpleQueryMessage};

use crate::cluster::{self, Cluster};
use crate::config::{Address, PostgresConfig, TlsMode};
use crate::connection::{Connection, Driver, Listener, Login};
use crate::credentials::Credentials;
use crate::errors::{Recovery, StoreError};
use crate::incarnation::Incarnation;
use crate::pooler;

/// The oldest server that ends idle sessions by itself.
const FIRST_WITH_LEASE: u32 = 14_00_00;

/// How long a host that could not be asked for its cluster is left alone.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Makes the connections of a backend, each on its own: the session on a connection that is lost
/// has lost its locks, so none is replaced.
pub(crate) struct Connector {
    pub(crate) config: Arc<PostgresConfig>,
    cluster: Cluster,
    process: Process,
}

/// What a server is, whether it can hold locks or not.
pub(crate) struct Server {
    /// Of its cluster, unless the server hides it.
    pub(crate) identifier: Option<String>,
    pub(crate) accepts_writes: bool,
    /// When it was started, as its own text.
    pub(crate) start: String,
}

impl Connector {
    pub(crate) fn new(config: Arc<PostgresConfig>, process: Process) -> Self {
        Self {
            config,
            cluster: Cluster::new(),
            process,
        }
    }

    /// One that has not seen any server yet.
    pub(crate) fn renewed(&self) -> Self {
        Self::new(self.config.clone(), self.process.clone())
    }

    /// Why nothing may be held or tried any more, if two clusters were seen.
    pub(crate) fn refused(&self) -> Option<StoreError> {
        self.cluster.refused()
    }

    /// Connects to the first host that can be written to. Each has the connect timeout.
    pub(crate) async fn connect(&self, listener: Listener) -> Result<Connection, StoreError> {
        if let Some(error) = self.refused() {
            return Err(error);
        }
        let limit = self.config.connect_timeout;
        let mut failed: Option<(StoreError, String)> = None;
        for address in &self.config.hosts {
            let attempt = self.connect_to(address, listener.clone());
            // The deadline covers name resolution, TLS, login and checks (hazard 6).
            let error = match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => StoreError::silent(&address.to_string(), limit)
                    .with_recovery(Recovery::NextHost),
            };
            if let Some(error) = self.refused() {
                // It names both hosts.
                return Err(error);
            }
            let message = format!("{address}: {}", error.message());
            if !matches!(error.recovery, Recovery::NextHost | Recovery::Primary) {
                return Err(error.with_message(message));
            }
            failed = Some(match failed {
                // A standby says less than the reason why the others do not serve.
                Some((first, before)) => {
                    let is_standby = first.recovery == Recovery::Primary;
                    let worse = if is_standby { error } else { first };
                    (worse, format!("{before}; {message}"))
                }
                None => (error, message),
            });
        }
        Err(match failed {
            Some((error, message)) => error.with_message(message),
            None => StoreError::new(ErrorKind::Misconfigured, "no host is configured"),
        })
    }

    async fn connect_to(
        &self,
        address: &Address,
        listener: Listener,
    ) -> Result<Connection, StoreError> {
        let login = self.log_in(&self.cluster, address, listener).await?;
        self.check(login).await
    }

    /// Asks the hosts behind the one that serves for their cluster: on their way to it other
    /// processes may stop at one of another cluster.
    pub(crate) async fn compare_the_others(&self, serving: &Address) -> Result<(), StoreError> {
        let mut hosts = self.config.hosts.iter();
        // Those before it have just been tried.
        hosts.by_ref().find(|host| *host == serving);
        let others: Vec<Address> = hosts.cloned().collect();
        self.compare(&others).await?;
        self.cluster.all_show_or_none()
    }

    /// Goes on asking the hosts that have not shown their cluster yet, until each has, or the
    /// backend is gone.
    pub(crate) async fn compare_the_missing(connector: Weak<Self>) {
        loop {
            let missing = |connector: &Arc<Self>| {
                let hosts = connector.cluster.missing(&connector.config.hosts);
                Some(hosts).filter(|hosts| !hosts.is_empty() && connector.refused().is_none())
            };
            if connector.upgrade().as_ref().and_then(missing).is_none() {
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
            let Some(connector) = connector.upgrade() else {
                return;
            };
            let Some(hosts) = missing(&connector) else {
                return;
            };
            if let Err(error) = connector.compare(&hosts).await {
                tracing::warn!(reason = error.message(), "the hosts do not belong together");
            }
        }
    }

    /// Asks these hosts, all at once, within the connect timeout. One that does not answer is left
    /// out; an error means that they do not belong together.
    async fn compare(&self, hosts: &[Address]) -> Result<(), StoreError> {
        let asking = hosts.iter().map(|host| self.look_at(host));
        for (host, answer) in hosts.iter().zip(join_all(asking).await) {
            match answer {
                Ok(server) => self.cluster.note(host, server.identifier.as_deref())?,
                Err(error) => {
                    tracing::debug!(%host, reason = error.message(), "not compared yet");
                }
            }
        }
        Ok(())
    }

    /// Asks one host what it is, within the connect timeout.
    pub(crate) async fn look_at(&self, address: &Address) -> Result<Server, StoreError> {
        let looking = async {
            let silent: Listener = Arc::new(|_| {});
            // Compared by the caller.
            let login = self.log_in(&Cluster::new(), address, silent).await?;
            let question = "SELECT NOT pg_is_in_recovery(), \
                            extract(epoch FROM pg_postmaster_start_time())";
            let answer = login.client().simple_query(question).await?;
            let row = answer.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some((row.get(0)? == "t", row.get(1)?.to_owned())),
                _ => None,
            });
            let (accepts_writes, start) =
                row.ok_or_else(|| StoreError::unreadable("the time of its start"))?;
            Ok(Server {
                identifier: cluster::identifier(login.client()).await?,
                accepts_writes,
                start,
            })
        };
        let limit = self.config.connect_timeout;
        tokio::time::timeout(limit, looking)
            .await
            .unwrap_or_else(|_| Err(StoreError::silent(&address.to_string(), limit)))
    }

    async fn log_in(
        &self,
        cluster: &Cluster,
        address: &Address,
        listener: Listener,
    ) -> Result<Login, StoreError> {
        let config = &*self.config;
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
        if let Some(options) = &config.options {
            client_config.options(options);
        }
        let credentials = Credentials::read(config, address).await?;
        if let Some(user) = &credentials.user {
            client_config.user(user);
        }
        if let Some(database) = &credentials.database {
            client_config.dbname(database);
        }
        if let Some(password) = &credentials.password {
            client_config.password(password);
        }
        let driver = Driver {
            process: self.process.clone(),
            address: address.clone(),
            listener,
            refusal: Box::pin(cluster.refusal()),
        };
        match config.tls_mode {
            _ if address.is_socket() => plain(&mut client_config, driver).await,
            TlsMode::Disable => plain(&mut client_config, driver).await,
            mode => encrypted(mode, config, &mut client_config, driver).await,
        }
    }

    /// Refuses servers on which locks would not exclude, expire or fence as promised.
    async fn check(&self, login: Login) -> Result<Connection, StoreError> {
        let client = login.client();
        // No prepared statement yet: a pooler could send its parts to different sessions.
        let answer = client
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
        let unreadable = || StoreError::unreadable("the first question");
        let row = row.ok_or_else(unreadable)?;
        let text = |index| row.try_get(index).ok().flatten().ok_or_else(unreadable);
        let pid = text(3)?.parse().map_err(|_| unreadable())?;
        let version = text(0)?.parse().map_err(|_| unreadable())?;
        check_version(&self.config, version)?;
        let identifier = cluster::identifier(client).await?;
        self.cluster.note(&login.address, identifier.as_deref())?;
        if text(1)? != "false" || text(2)? != "off" {
            return Err(StoreError::standby());
        }
        if text(4)? == "off" {
            return Err(StoreError::new(
                ErrorKind::Misconfigured,
                "synchronous_commit is off, so a crash of the server could give a fencing token \
                 twice; set it on for this role (ALTER ROLE ... SET synchronous_commit = on) or \
                 in the URL (options=-c%20synchronous_commit%3Don)",
            ));
        }
        self.check_pooler(client, pid).await?;
        let incarnation = Incarnation::of(client).await?;
        Ok(login.checked(pid, incarnation))
    }

    async fn check_pooler(&self, client: &Client, pid: i32) -> Result<(), StoreError> {
        let is_the_servers = pooler::pid_of_the_login(client).await == Some(pid);
        if is_the_servers || self.config.session_pooler {
            return Ok(());
        }
        Err(StoreError::new(
            ErrorKind::Unsupported,
            "there is a connection pooler in between: in transaction mode two candidates would \
             get the same lock; connect to the server itself, or say that the pooler is in \
             session mode (pooler=session in the URL)",
        ))
    }

    /// Ends what a session waits for at the server, within the connect timeout.
    pub(crate) async fn cancel(&self, token: CancelToken) {
        let request = async {
            match self.config.tls_mode {
                TlsMode::Disable => token.cancel_query(NoTls).await.ok(),
                #[cfg(feature = "_tls")]
                _ => match crate::tls::Tls::new(&self.config) {
                    Ok(tls) => token.cancel_query(tls).await.ok(),
                    Err(_) => None,
                },
                #[cfg(not(feature = "_tls"))]
                _ => token.cancel_query(NoTls).await.ok(),
            }
        };
        // Without an answer the server finds the closed connection itself.
        let _outcome = tokio::time::timeout(self.config.connect_timeout, request).await;
    }
}

async fn plain(
    client_config: &mut tokio_postgres::Config,
    driver: Driver,
) -> Result<Login, StoreError> {
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
) -> Result<Login, StoreError> {
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
) -> Result<Login, StoreError> {
    plain(client_config, driver).await
}

fn check_version(config: &PostgresConfig, version: u32) -> Result<(), StoreError> {
    if version >= FIRST_WITH_LEASE || config.without_lease {
        return Ok(());
    }
    Err(StoreError::new(
        ErrorKind::Unsupported,
        format!(
            "the server is PostgreSQL {}, and only 14 and newer end the session of a holder that \
             has fallen silent; upgrade it, or accept that a frozen holder keeps its lock \
             (server_lease=off in the URL)",
            version / 10_000
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

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
