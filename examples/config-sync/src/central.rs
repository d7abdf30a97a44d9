//! The central store: the newest configuration, and where the replicas are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Path, State};
use axum::routing::{get, put};
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::config::Config;

#[derive(Default)]
struct Central {
    newest: Config,
    /// Their URLs by name.
    replicas: BTreeMap<String, String>,
}

type Shared = Arc<Mutex<Central>>;

fn lock(central: &Shared) -> MutexGuard<'_, Central> {
    central.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) async fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    println!("{}", listener.local_addr()?);
    let routes = Router::new()
        .route("/config", get(newest).put(publish))
        .route("/replicas", get(replicas))
        .route("/replicas/{name}", put(register))
        .with_state(Shared::default());
    axum::serve(listener, routes).await?;
    Ok(())
}

async fn newest(State(central): State<Shared>) -> Json<Config> {
    Json(lock(&central).newest.clone())
}

async fn publish(State(central): State<Shared>, content: String) -> Json<Config> {
    let mut central = lock(&central);
    central.newest.revision += 1;
    central.newest.content = content;
    Json(central.newest.clone())
}

async fn replicas(State(central): State<Shared>) -> Json<BTreeMap<String, String>> {
    Json(lock(&central).replicas.clone())
}

async fn register(State(central): State<Shared>, Path(name): Path<String>, url: String) {
    lock(&central).replicas.insert(name, url);
}
