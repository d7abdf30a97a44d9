//! The one HTTP request that readiness needs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// An HTTP server on loopback.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    /// `http://127.0.0.1:2379`
    pub(crate) url: String,
    /// The only authority that it may be signed by.
    pub(crate) ca: Option<PathBuf>,
    /// Sent as `Authorization: Bearer`.
    pub(crate) token: Option<String>,
}

impl Http {
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A server without TLS.
    pub(crate) fn plain(port: u16) -> Self {
        Self {
            url: format!("http://127.0.0.1:{port}"),
            ca: None,
            token: None,
        }
    }

    /// The body of the answer to a GET; a status other than 200 is an error that shows both.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        self.attempt(path)
            .with_context(|| format!("GET {path} on {}", self.url))
    }

    fn attempt(&self, path: &str) -> Result<String> {
        let mut settings = ureq::Agent::config_builder()
            .timeout_global(Some(Self::TIMEOUT))
            .http_status_as_error(false)
            // The server is on this machine, whatever the environment says of proxies.
            .proxy(None);
        if let Some(ca) = &self.ca {
            let text =
                std::fs::read(ca).with_context(|| format!("cannot read {}", ca.display()))?;
            let roots = RootCerts::new_with_certs(&[Certificate::from_pem(&text)?]);
            settings = settings.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let agent = settings.build().new_agent();
        let mut request = agent.get(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut answer = request.call()?;
        let (status, body) = (answer.status(), answer.body_mut().read_to_string()?);
        if status != 200 {
            bail!(
                "status {status}: {}",
                body.chars().take(400).collect::<String>()
            );
        }
        Ok(body)
    }
}
