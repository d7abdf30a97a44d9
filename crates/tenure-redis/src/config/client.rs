//! The server of an application's own client.

use redis::ConnectionAddr;
use tenure_core::Error;
use tenure_kit::{Address, Credentials, Secret, Tls};

use super::{RedisConfig, Servers};

impl RedisConfig {
    /// The server that an application's own client talks to, with the same user, password and
    /// database. The backend opens connections of its own there: locks need deadlines, and one of
    /// them does nothing but wait for messages. No I/O yet.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) for what cannot be taken
    /// over: certificates (the client does not show them; give the files by
    /// [`tls`](Self::tls)), and a TLS connection that verifies no name.
    pub fn from_client(client: &redis::Client) -> Result<Self, Error> {
        let info = client.get_connection_info();
        let (host, port, encrypted) = match info.addr() {
            ConnectionAddr::Unix(path) => {
                let path = path.to_str().unwrap_or_default();
                Self::socket(path)?;
                (path.to_owned(), 0, false)
            }
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port, false),
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            } => (host.clone(), *port, true),
            ConnectionAddr::TcpTls { .. } => {
                return Err(Error::invalid_input(
                    "the client has certificates of its own, or verifies no name; describe the \
                     server by RedisConfig::server and its certificates by RedisConfig::tls",
                ));
            }
            _ => {
                return Err(Error::invalid_input(
                    "the client reaches its server in a way that this library does not know; \
                     describe the server by RedisConfig::server",
                ));
            }
        };
        let address = Address::new(host, port);
        let mut config = Self::with_servers(Servers::Single(address));
        let settings = info.redis_settings();
        // Without a password the client does not use the user's name either.
        if let Some(password) = settings.password() {
            config.credentials = Credentials {
                user: settings.username().map(str::to_owned),
                password: Some(Secret::value(password)),
            };
        }
        config.database = u32::try_from(settings.db())
            .map_err(|_| Error::invalid_input("the client's database is a negative number"))?;
        config.tls = encrypted.then(Tls::new);
        Ok(config)
    }
}
