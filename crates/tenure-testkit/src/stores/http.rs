//! The one HTTP request that readiness and the round trips need.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ureq::http::Request;
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

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status, 200 for example.
    pub(crate) status: u16,
    /// The whole body.
    pub(crate) body: String,
}

impl Answer {
    /// The body when the status is the expected one; an error that shows both when not.
    pub(crate) fn expect_status(self, wanted: u16, what: &str) -> Result<String> {
        if self.status == wanted {
            return Ok(self.body);
        }
        let body: String = self.body.chars().take(400).collect();
        bail!(
            "{what}: status {} where {wanted} was expected: {body}",
            self.status
        )
    }
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

    /// One GET.
    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, None)
    }

    /// One request.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        json: Option<&serde_json::Value>,
    ) -> Result<Answer> {
        self.attempt(method, path, json)
            .with_context(|| format!("{method} {path} on {}", self.url))
    }

    fn attempt(
        &self,
        method: &str,
        path: &str,
        json: Option<&serde_json::Value>,
    ) -> Result<Answer> {
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
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("Accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut answer = match json {
            Some(json) => {
                let request = request.header("Content-Type", "application/json");
                agent.run(request.body(json.to_string())?)?
            }
            None => agent.run(request.body(())?)?,
        };
        Ok(Answer {
            status: answer.status().as_u16(),
            body: answer.body_mut().read_to_string()?,
        })
    }
}
