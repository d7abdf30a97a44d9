//! A credential helper: the program under `user.exec` of a kubeconfig, run as kubectl runs it.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::process::Stdio;
use std::time::Duration;

use kube::config::{ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::json;
use tenure_core::ErrorKind;
use tenure_kit::StoreError;
use tenure_kit::deadline::within;
use tenure_kit::limits::{MAX_PEM_BYTES, shown};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::access::misconfigured;
use crate::time::WallTime;

/// How long a helper may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What a helper gives out.
pub(crate) struct Credentials {
    pub(crate) token: Option<String>,
    /// A certificate and its key, as PEM.
    pub(crate) certificate: Option<(String, String)>,
    /// For how long, if it says so, by this host's clock.
    pub(crate) lasting: Option<Duration>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("lasting", &self.lasting)
            .finish_non_exhaustive()
    }
}

/// Runs the helper once. What it writes to its standard error goes to ours, as with kubectl.
///
/// The errors name the helper and show nothing of what it wrote. Dropping the future kills it.
pub(crate) async fn run(helper: &ExecConfig) -> Result<Credentials, StoreError> {
    let name = helper.command.as_deref().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| misconfigured("user.exec in the kubeconfig has no command"))?;
    let what = format!("the credential helper \"{}\"", shown(name));
    let setting = "user.exec in the kubeconfig names it";
    let output = within(&what, LIMIT, setting, output_of(helper, name, &what)).await?;
    read(&output).map_err(|problem| {
        misconfigured(format!(
            "{what} ({setting}) gives no credentials: {problem}"
        ))
    })
}

async fn output_of(helper: &ExecConfig, name: &str, what: &str) -> Result<Vec<u8>, StoreError> {
    let mut command = command(helper, name, what)?;
    let started = command.spawn();
    let mut child = started.map_err(|error| {
        let hint = helper.install_hint.as_deref().unwrap_or_default();
        misconfigured(format!(
            "{what} cannot be started: {error}; install it {}",
            shown(hint)
        ))
    })?;
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let reading = stdout.take(MAX_PEM_BYTES).read_to_end(&mut output).await;
        reading.map_err(|error| misconfigured(format!("{what} cannot be read: {error}")))?;
    }
    match child.wait().await {
        Ok(status) if status.success() => Ok(output),
        // It may reach its own servers again later.
        Ok(status) => Err(StoreError::new(
            ErrorKind::Unavailable,
            format!("{what} fails ({status}); what it says about that is on standard error"),
        )),
        Err(error) => Err(misconfigured(format!(
            "{what} cannot be waited for: {error}"
        ))),
    }
}

fn command(helper: &ExecConfig, name: &str, what: &str) -> Result<Command, StoreError> {
    let can_ask = io::stdin().is_terminal();
    let interactive = match helper.interactive_mode {
        Some(ExecInteractiveMode::Always) if !can_ask => {
            return Err(misconfigured(format!(
                "{what} wants a terminal (interactiveMode: Always) and there is none; use one \
                 that works without"
            )));
        }
        Some(ExecInteractiveMode::Never) => false,
        _ => can_ask,
    };
    let mut spec = json!({ "interactive": interactive });
    if let Some(cluster) = &helper.cluster {
        spec["cluster"] = json!(cluster);
    }
    let told = json!({
        "kind": "ExecCredential",
        "apiVersion": helper.api_version,
        "spec": spec,
    });
    let mut command = Command::new(name);
    command.args(helper.args.iter().flatten());
    for variable in helper.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    command.env("KUBERNETES_EXEC_INFO", told.to_string());
    for variable in helper.drop_env.iter().flatten() {
        command.env_remove(variable);
    }
    let input = if interactive {
        Stdio::inherit()
    } else {
        Stdio::null()
    };
    command
        .stdin(input)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

#[derive(Deserialize)]
struct ExecCredential {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// The error says what is wrong, and never what stands there.
pub(crate) fn read(output: &[u8]) -> Result<Credentials, &'static str> {
    // YAML, of which JSON is a part.
    let read: Option<ExecCredential> = serde_saphyr::from_slice(output).ok();
    let status = read.ok_or("its output is no ExecCredential")?;
    let status = status.status.ok_or("its output has no status")?;
    let is_set = |text: &String| !text.is_empty();
    let token = status.token.filter(is_set);
    let certificate = status.client_certificate_data.filter(is_set);
    let certificate = match (certificate, status.client_key_data.filter(is_set)) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("it has only one of clientCertificateData and clientKeyData"),
    };
    if token.is_none() && certificate.is_none() {
        return Err("its status has neither token nor clientCertificateData");
    }
    let expires = status.expiration_timestamp.as_deref();
    Ok(Credentials {
        token,
        certificate,
        lasting: expires.and_then(WallTime::from_now),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(script: &str) -> ExecConfig {
        serde_json::from_value(json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", script],
            "env": [{ "name": "OURS", "value": "own" }],
        }))
        .unwrap()
    }

    fn giving(status: &str) -> ExecConfig {
        helper(&format!(
            "echo '{{\"kind\":\"ExecCredential\",\"status\":{status}}}'"
        ))
    }

    #[tokio::test]
    async fn a_token_or_a_certificate_or_both_are_taken() {
        let expires = "\"expirationTimestamp\":\"2999-01-01T00:00:00Z\"";
        let pair = "\"clientCertificateData\":\"c\",\"clientKeyData\":\"k\"";
        let given = run(&giving(&format!("{{\"token\":\"t\",{expires}}}")))
            .await
            .unwrap();
        assert_eq!(
            (given.token.as_deref(), given.certificate),
            (Some("t"), None)
        );
        assert!(given.lasting > Some(Duration::from_secs(3600)));
        let given = run(&giving(&format!("{{{pair}}}"))).await.unwrap();
        assert_eq!(given.certificate, Some(("c".to_owned(), "k".to_owned())));
        assert_eq!((given.token, given.lasting), (None, None));
        let given = run(&giving(&format!("{{\"token\":\"t\",{pair}}}")))
            .await
            .unwrap();
        assert!(given.token.is_some() && given.certificate.is_some());
        let given = run(&helper("printf 'status:\\n  token: t\\n'"))
            .await
            .unwrap();
        assert_eq!(given.token.as_deref(), Some("t"));
    }

    #[tokio::test]
    async fn a_helper_is_told_what_kubectl_tells_it() {
        let script = "case \"$KUBERNETES_EXEC_INFO\" in *'\"interactive\":'*) ;; *) exit 1;; esac; \
                      echo \"status: { token: $OURS }\"";
        let given = run(&helper(script)).await.unwrap();
        assert_eq!(given.token.as_deref(), Some("own"));
    }

    #[tokio::test]
    async fn a_helper_that_fails_is_named_and_what_it_wrote_is_not_shown() {
        let pair = "{\"clientCertificateData\":\"hunter2\"}";
        for (helper, kind, expected) in [
            (
                helper("echo hunter2; exit 3"),
                ErrorKind::Unavailable,
                "exit status: 3",
            ),
            (
                helper("echo hunter2: ["),
                ErrorKind::Misconfigured,
                "no ExecCredential",
            ),
            (
                helper("echo status:"),
                ErrorKind::Misconfigured,
                "no status",
            ),
            (
                giving("{\"user\":\"hunter2\"}"),
                ErrorKind::Misconfigured,
                "neither",
            ),
            (giving(pair), ErrorKind::Misconfigured, "only one of"),
        ] {
            let error = run(&helper).await.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            let text = format!("{error} {error:?}");
            for part in ["the credential helper \"sh\"", expected] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(!text.contains("hunter2"), "{text}");
        }
        let absent = ExecConfig {
            command: Some("no-such-helper".to_owned()),
            install_hint: Some("from example.com".to_owned()),
            ..ExecConfig::default()
        };
        let text = run(&absent).await.unwrap_err().to_string();
        assert!(
            text.contains("\"no-such-helper\"") && text.contains("from example.com"),
            "{text}"
        );
    }
}
