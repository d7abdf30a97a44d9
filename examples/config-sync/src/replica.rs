//! A replica: serves and applies its configuration, and stands for election.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use tenure::{Election, Identity, LockName, Policy};
use tokio::net::TcpListener;

use crate::config::Applied;
use crate::{Replica, sync};

struct Local {
    path: PathBuf,
    applied: Applied,
}

type Shared = Arc<Mutex<Local>>;

fn lock(local: &Shared) -> MutexGuard<'_, Local> {
    local.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves until it is told to stop, or the election cannot go on.
pub(crate) async fn run(options: Replica) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.directory)?;
    let path = options.directory.join("config.json");
    let applied = Applied::load(&path).with_context(|| format!("{} is damaged", path.display()))?;
    let local = Shared::new(Mutex::new(Local { path, applied }));

    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let url = format!("http://{address}");
    let routes = Router::new()
        .route("/config", get(current).put(apply))
        .with_state(local);
    let http = reqwest::Client::builder().timeout(sync::LIMIT).build()?;
    let central = format!("{}/replicas/{}", options.central, options.name);
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
    http.put(central)
        .body(url)
        .send()
        .await?
        .error_for_status()?;
    println!("{address}");

    let backend = tenure::connect(&options.backend).await?;
    let election = Election::builder(backend, LockName::new(&options.lock)?)
        .identity(Identity::new(&options.name)?)
        .policy(Policy::fast())
        .build()?;
    let leading = election.run_until(told_to_stop(), |term| {
        sync::keep_in_step(term, http.clone(), options.clone())
    });
    tokio::select! {
        served = serving => served??,
        led = leading => led?,
    }
    Ok(())
}

async fn told_to_stop() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn current(State(local): State<Shared>) -> Json<Applied> {
    Json(lock(&local).applied.clone())
}

/// Applies what a leader sends, unless a later one has written before: then that was the newer.
async fn apply(State(local): State<Shared>, Json(sent): Json<Applied>) -> (StatusCode, String) {
    let mut local = lock(&local);
    let seen = local.applied.token;
    if sent.token < seen {
        let refusal = format!("the token {} is older than {seen}", sent.token);
        return (StatusCode::CONFLICT, refusal);
    }
    if let Err(error) = sent.store(&local.path) {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    }
    local.applied = sent;
    (StatusCode::OK, String::new())
}
