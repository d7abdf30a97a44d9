//! The work of the leader.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use tenure::{Next, NotLeading, Term};
use tracing::{info, warn};

use crate::Replica;
use crate::config::{Applied, Config};

/// How long one request may take; so long the leader must still lead when it sends one.
pub(crate) const LIMIT: Duration = Duration::from_millis(500);

/// Rounds over all replicas, until the term is over.
pub(crate) async fn keep_in_step(
    term: Term,
    http: Client,
    options: Replica,
) -> anyhow::Result<Next> {
    info!(token = %term.token(), "{} keeps the replicas in step", options.name);
    loop {
        let round = term.until_cancelled(round(&term, &http, &options)).await;
        match round {
            Ok(Ok(())) => {}
            // Another one leads, or nobody does: so this instance campaigns again.
            Ok(Err(Trouble::NotLeading)) | Err(NotLeading::Over { .. }) => {
                return Ok(Next::Campaign);
            }
            // The central store does not answer. It is asked again.
            Ok(Err(Trouble::Http(error))) => warn!("a round is cut short: {error}"),
            Err(other) => return Err(other.into()),
        }
        tokio::time::sleep(options.pause()).await;
    }
}

enum Trouble {
    NotLeading,
    Http(reqwest::Error),
}

impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error)
    }
}

async fn round(term: &Term, http: &Client, options: &Replica) -> Result<(), Trouble> {
    let newest: Config = get(http, &format!("{}/config", options.central)).await?;
    let replicas: BTreeMap<String, String> =
        get(http, &format!("{}/replicas", options.central)).await?;
    for (name, url) in replicas {
        match bring_up_to_date(term, http, &newest, &url).await {
            Ok(false) => {}
            Ok(true) => {
                info!(
                    "{name} has applied revision {} under token {}",
                    newest.revision,
                    term.token()
                );
                tokio::time::sleep(options.pause()).await;
            }
            Err(Trouble::NotLeading) => return Err(Trouble::NotLeading),
            // One that is down gets the newest once it is back; the others need not wait.
            Err(Trouble::Http(error)) => warn!("{name} is left out: {error}"),
        }
    }
    Ok(())
}

async fn get<T: serde::de::DeserializeOwned>(http: &Client, url: &str) -> reqwest::Result<T> {
    http.get(url).send().await?.error_for_status()?.json().await
}

/// Whether the replica was behind.
async fn bring_up_to_date(
    term: &Term,
    http: &Client,
    newest: &Config,
    url: &str,
) -> Result<bool, Trouble> {
    let url = format!("{url}/config");
    let applied: Applied = get(http, &url).await?;
    if applied.config == *newest {
        return Ok(false);
    }
    // Beside the side effect. What arrives later than this allows is refused by its token.
    let permit = term.permit(LIMIT).map_err(|_over| Trouble::NotLeading)?;
    let sent = Applied {
        token: permit.token.as_u64(),
        config: newest.clone(),
    };
    let answer = http.put(&url).json(&sent).send().await?;
    if answer.status() == StatusCode::CONFLICT {
        warn!("{url} has seen a later leader");
        return Err(Trouble::NotLeading);
    }
    answer.error_for_status()?;
    Ok(true)
}
