//! Connects to a server that is fit to hold locks: one that can be written to, with no pooler in
//! between, of the one cluster that this backend uses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::{join_all, join3};
use tenure_core::{ErrorKind, Process};
use tenure_kit::deadline::within;
use tenure_kit::{Address, Allowance};
use tokio::sync::Notify;
use tokio_postgres::config::{ChannelBinding as Binding, SslMode};
use tokio_postgres::{CancelToken, NoTls};

use crate::client::{LONGEST_ANSWER, SessionClient};
use crate::cluster::{self, Cluster};
#[cfg(feature = "_tls")]
use crate::config::TlsMode;
use crate::config::{ChannelBinding, PostgresConfig, Servers};
use crate::connection::{Checked, Connection, Login};
use crate::credentials::Account;
use crate::driver::{Driver, Listener};
use crate::errors::{self, StoreError, is_standby};
use crate::incarnation::Incarnation;
use crate::pooler;
use crate::question::ask;
use crate::socket::{self, Socket};
#[cfg(feature = "_tls")]
use crate::tls::MakeTls;

/// The oldest server that ends idle sessions by itself.
const FIRST_WITH_LEASE: u32 = 14_00_00;

/// How long a host that could not be asked for its cluster is left alone.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Makes the connections of a backend, each on its own: the session on a connection that is lost
/// has lost its locks.
pub(crate) struct Connector {
    pub(crate) config: Arc<PostgresConfig>,
    cluster: Cluster,
    process: Process,
    /// Whether it was told that a password was sent in clear.
    has_warned: AtomicBool,
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
            has_warned: AtomicBool::new(false),
        }
    }

    /// One that has not seen any server yet, and takes one that is only fit to be looked at.
    pub(crate) fn to_look(&self) -> Self {
        let mut config = (*self.config).clone();
        config.servers = Servers::Any;
        Self::new(Arc::new(config), self.process.clone())
    }

    /// Why nothing may be held or tried any more, if two clusters were seen.
    pub(crate) fn refused(&self) -> Option<StoreError> {
        self.cluster.refused()
    }

    /// Connects to the first host that can be written to. Each has the connect timeout. Where the
    /// configuration only looks, a standby will do if there is none.
    pub(crate) async fn connect(&self) -> Result<Connection, StoreError> {
        self.connect_with(None).await
    }

    /// The same for a session that will listen.
    pub(crate) async fn connect_to_listen(
        &self,
        listener: Listener,
    ) -> Result<Connection, StoreError> {
        self.connect_with(Some(listener)).await
    }

    async fn connect_with(&self, listener: Option<Listener>) -> Result<Connection, StoreError> {
        if let Some(error) = self.refused() {
            return Err(error);
        }
        let limit = self.config.connect_timeout;
        let mut unfit: Option<Connection> = None;
        let mut failed = Vec::new();
        let mut messages = Vec::new();
        for address in &self.config.hosts {
            let attempt = self.connect_to(address, listener.clone());
            // The deadline covers name resolution, TLS, login and checks (hazard 6).
            let error = match within("the server", limit, "connect_timeout", attempt).await {
                Ok(connection) if connection.unfit.is_none() => return Ok(connection),
                Ok(connection) => {
                    if unfit.as_ref().is_none_or(|unfit| unfit.is_standby) {
                        unfit = Some(connection);
                    }
                    continue;
                }
                Err(error) => error,
            };
            if let Some(error) = self.refused() {
                // It names both hosts.
                return Err(error);
            }
            let message = format!("{address}: {}", error.message());
            if !error.needs_reconnect() && !is_standby(&error) {
                return Err(error.with_message(message));
            }
            failed.push(error);
            messages.push(message);
        }
        if let Some(unfit) = unfit {
            return Ok(unfit);
        }
        // A standby says less than the reason why the others do not serve.
        let reason = failed.iter().position(|error| !is_standby(error));
        let reason = reason.unwrap_or_default();
        Err(failed.swap_remove(reason).with_message(messages.join("; ")))
    }

    /// Connects to this very host, within the connect timeout. `answered` hears of the first
    /// sign of the server.
    pub(crate) async fn connect_again(
        &self,
        address: &Address,
        answered: Arc<Notify>,
    ) -> Result<Connection, StoreError> {
        if let Some(error) = self.refused() {
            return Err(error);
        }
        let limit = self.config.connect_timeout;
        let attempt = self.connect_over(socket::connect_to_tell(address, answered), address, None);
        within("the server", limit, "connect_timeout", attempt).await
    }

    async fn connect_to(
        &self,
        address: &Address,
        listener: Option<Listener>,
    ) -> Result<Connection, StoreError> {
        let socket = socket::connect(address);
        self.connect_over(socket, address, listener).await
    }

    async fn connect_over(
        &self,
        socket: impl Future<Output = Result<Socket, StoreError>>,
        address: &Address,
        listener: Option<Listener>,
    ) -> Result<Connection, StoreError> {
        let login = self
            .log_in(&self.cluster, socket, address, listener)
            .await?;
        let checked = self.check(&login).await;
        // The server may have ended the session between two questions, and has said why.
        let checked = checked.map_err(|error| {
            let ended = login.ended().filter(|_| error.needs_reconnect());
            errors::while_connecting(ended.unwrap_or(error))
        })?;
        Ok(login.checked(checked))
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
        while let Some(missing) = connector.upgrade().and_then(|this| this.missing()) {
            tokio::time::sleep(ASK_AGAIN).await;
            let Some(connector) = connector.upgrade() else {
                return;
            };
            if let Err(error) = connector.compare(&missing).await {
                let reason = error.message();
                tracing::warn!(reason, "the hosts do not belong together");
            }
        }
    }

    fn missing(&self) -> Option<Vec<Address>> {
        let missing = self.cluster.missing(&self.config.hosts);
        Some(missing).filter(|missing| !missing.is_empty() && self.refused().is_none())
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
            // Compared by the caller.
            let socket = socket::connect(address);
            let login = self.log_in(&Cluster::new(), socket, address, None).await?;
            let question = "SELECT NOT pg_is_in_recovery(), \
                            extract(epoch FROM pg_postmaster_start_time())";
            let rows = ask(login.client(), question).await?;
            let (accepts_writes, start) = rows
                .first()
                .and_then(|row| Some((row.get(0)? == "t", row.get(1)?.to_owned())))
                .ok_or_else(|| errors::unreadable("the time of its start"))?;
            Ok(Server {
                identifier: cluster::identifier(login.client()).await?,
                accepts_writes,
                start,
            })
        };
        let limit = self.config.connect_timeout;
        within(&address.to_string(), limit, "connect_timeout", looking).await
    }

    async fn log_in(
        &self,
        cluster: &Cluster,
        socket: impl Future<Output = Result<Socket, StoreError>>,
        address: &Address,
        listener: Option<Listener>,
    ) -> Result<Login, StoreError> {
        let config = &*self.config;
        let mut client_config = tokio_postgres::Config::new();
        client_config
            .host(address.host())
            .port(address.port())
            .channel_binding(match config.channel_binding {
                ChannelBinding::Disable => Binding::Disable,
                ChannelBinding::Prefer => Binding::Prefer,
                ChannelBinding::Require => Binding::Require,
            })
            .application_name("tenure");
        if let Some(options) = &config.options {
            client_config.options(options);
        }
        let account = Account::read(config, address).await?;
        if let Some(user) = &account.user {
            client_config.user(user);
        }
        if let Some(database) = &account.database {
            client_config.dbname(database);
        }
        if let Some(password) = &account.password {
            client_config.password(password);
        }
        let allowance = Allowance::new(LONGEST_ANSWER);
        let socket = socket.await?;
        let asked_in_clear = socket.asked_in_clear();
        let socket = allowance.limit(socket);
        let driver = Driver {
            process: self.process.clone(),
            address: address.clone(),
            allowance,
            listener,
            refusal: Box::pin(cluster.refusal()),
        };
        #[cfg(feature = "_tls")]
        if config.tls_mode != TlsMode::Disable && !address.is_socket() {
            client_config.ssl_mode(match config.tls_mode {
                TlsMode::Require => SslMode::Require,
                _ => SslMode::Prefer,
            });
            let tls = MakeTls::new(config).await?.for_host(address)?;
            let connected = client_config.connect_raw(socket, tls).await;
            self.warn_of_clear_text(address, &asked_in_clear);
            let (client, connection) = connected.map_err(errors::of_client)?;
            return Ok(driver.drive(client, connection));
        }
        client_config.ssl_mode(SslMode::Disable);
        let connected = client_config.connect_raw(socket, NoTls).await;
        self.warn_of_clear_text(address, &asked_in_clear);
        let (client, connection) = connected.map_err(errors::of_client)?;
        Ok(driver.drive(client, connection))
    }

    /// Once for a backend.
    fn warn_of_clear_text(&self, address: &Address, asked: &AtomicBool) {
        if asked.load(Ordering::Relaxed)
            && !address.is_loopback()
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                %address,
                "the password was sent without encryption, so everyone on the way can read it; set \
                 sslmode=verify-full in the URL, and scram-sha-256 in the server's pg_hba.conf"
            );
        }
    }

    /// Refuses servers on which locks would not exclude, expire or fence as promised. Where the
    /// configuration only looks, one that has locks is not refused for that it may not be written to.
    async fn check(&self, login: &Login) -> Result<Checked, StoreError> {
        let client = login.client();
        // All of it in one round trip. No prepared statement yet: a pooler could send its parts to
        // different sessions. And no setting yet: the session may be another client's next.
        let first = ask(
            client,
            "SELECT current_setting('server_version_num'), pg_is_in_recovery()::text, \
             current_setting('transaction_read_only'), pg_backend_pid()::text, \
             current_setting('synchronous_commit')",
        );
        let (rows, identifier, incarnation) =
            join3(first, cluster::identifier(client), Incarnation::of(client)).await;
        let unreadable = || errors::unreadable("the first question");
        let rows = rows?;
        let row = rows.first().ok_or_else(unreadable)?;
        let text = |index| row.try_get(index).ok().flatten().ok_or_else(unreadable);
        let pid = text(3)?.parse().map_err(|_| unreadable())?;
        let version = text(0)?.parse().map_err(|_| unreadable())?;
        check_version(&self.config, version)?;
        self.check_pooler(client, pid).await?;
        self.cluster.note(&login.address, identifier?.as_deref())?;
        let is_standby = text(1)? != "false";
        let unfit = if is_standby {
            Some(errors::standby())
        } else if text(2)? != "off" {
            Some(errors::read_only())
        } else if text(4)? == "off" {
            Some(errors::volatile())
        } else {
            None
        };
        if let Some(error) = unfit
            .clone()
            .filter(|_| self.config.servers == Servers::Writable)
        {
            return Err(error);
        }
        Ok(Checked {
            pid,
            version,
            incarnation: incarnation?,
            is_standby,
            unfit,
        })
    }

    async fn check_pooler(&self, client: &SessionClient, pid: i32) -> Result<(), StoreError> {
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
    pub(crate) async fn cancel(&self, address: &Address, token: CancelToken) {
        let request = async {
            let socket = socket::connect(address).await.ok()?;
            #[cfg(feature = "_tls")]
            if self.config.tls_mode != TlsMode::Disable && !address.is_socket() {
                let tls = MakeTls::new(&self.config).await.ok()?;
                let tls = tls.for_host(address).ok()?;
                return token.cancel_query_raw(socket, tls).await.ok();
            }
            token.cancel_query_raw(socket, NoTls).await.ok()
        };
        // Without an answer the server finds the closed connection itself.
        let _outcome = tokio::time::timeout(self.config.connect_timeout, request).await;
    }
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
