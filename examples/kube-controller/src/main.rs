//! A Kubernetes controller that reconciles on the leader alone.
//!
//! It keeps an annotation on every `ConfigMap` with the label `tenure.example/count=entries`: how
//! many entries it has. All instances run; the elected one watches and writes.
//!
//! ```text
//! TENURE_BACKEND=kube-lease://default TENURE_LOCK=counter kube-controller
//! ```
//!
//! Two things make a leader of before harmless. It is told to stop while it still leads, and the
//! reconciliations under way have the stop grace to end. And a late write is refused by the API
//! server: each is on condition of the version of the object that was read, and of no later
//! leader's token on it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tenure::{Next, NotLeading, Term};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

const LABEL: &str = "tenure.example/count=entries";
const COUNT: &str = "tenure.example/entries";
const TOKEN: &str = "tenure.example/token";

/// The longest that one write can take.
const WRITE: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter("kube_controller=info,tenure_core=info")
        .with_writer(std::io::stderr)
        .init();
    let election = tenure::from_env()?.election().await?;
    let client = Client::try_default().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told_to_stop = async move {
        terminate.recv().await;
    };
    election
        .run_until(told_to_stop, |term| while_leading(term, client.clone()))
        .await?;
    Ok(())
}

struct Context {
    client: Client,
    term: Term,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    #[error("a later leader has written it, under token {0}")]
    Past(u64),
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

/// A controller of its own for each term: what the last one had cached and queued is past.
async fn while_leading(term: Term, client: Client) -> Result<Next, Infallible> {
    println!("leads under token {}", term.token());
    let (stop, told) = oneshot::channel::<()>();
    let objects: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let context = Arc::new(Context {
        client,
        term: term.clone(),
    });
    let running = Controller::new(objects, watcher::Config::default().labels(LABEL))
        .graceful_shutdown_on(async move {
            // Nothing is sent: that it is dropped says it.
            let _dropped = told.await;
        })
        .run(reconcile, on_error, context)
        .for_each(async |outcome| match outcome {
            Ok((object, _)) => info!("{} is up to date", object.name),
            Err(error) => warn!("{error}"),
        });
    let until_told = async {
        term.cancelled().await;
        drop(stop);
    };
    tokio::select! {
        // Ends when the last reconciliation has.
        ((), ()) = async { tokio::join!(running, until_told) } => {}
        // Not even the stop grace was enough: drop them.
        () = term.lost() => {}
    }
    Ok(Next::Campaign)
}

async fn reconcile(object: Arc<ConfigMap>, context: Arc<Context>) -> Result<Action, Trouble> {
    let annotations = object.annotations();
    let seen = annotations.get(TOKEN).and_then(|text| text.parse().ok());
    let count = entries(object.data.as_ref());
    if annotations.get(COUNT) == Some(&count) {
        return Ok(Action::await_change());
    }
    // Beside the write.
    let token = context.term.permit(WRITE)?.token.as_u64();
    if let Some(seen) = seen.filter(|seen| *seen > token) {
        return Err(Trouble::Past(seen));
    }
    let patch = json!({
        "metadata": {
            // Refused if anybody has written the object since it was read.
            "resourceVersion": object.resource_version(),
            "annotations": { COUNT: count, TOKEN: token.to_string() },
        }
    });
    let objects: Api<ConfigMap> = Api::default_namespaced(context.client.clone());
    let name = object.name_any();
    objects
        .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(Action::await_change())
}

fn entries(data: Option<&BTreeMap<String, String>>) -> String {
    data.map_or(0, BTreeMap::len).to_string()
}

fn on_error(_object: Arc<ConfigMap>, _error: &Trouble, _context: Arc<Context>) -> Action {
    Action::requeue(Duration::from_secs(1))
}
