//! Keeps the configuration of several replicas at the newest one of a central store.
//!
//! Every replica runs the same program. The elected one compares, again and again, the
//! configuration of each replica with the central store's and has those that differ apply the
//! newest. Each write carries the leader's fencing token; a replica refuses one that is older than
//! the newest token it has seen, so a leader that was paused or cut off and does not know it yet
//! cannot bring back an old configuration.
//!
//! ```text
//! config-sync central --listen 127.0.0.1:7000
//! config-sync replica --name a --listen 127.0.0.1:7001 --central http://127.0.0.1:7000 \
//!     --directory $HOME/a --backend file://$HOME/.local/state/election
//! curl -X PUT --data 'timeout = 5' http://127.0.0.1:7000/config
//! ```

mod central;
mod config;
mod replica;
mod sync;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Keeps the configuration of several replicas at the newest one")]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The central store: the newest configuration, and where the replicas are
    Central {
        /// Where to serve
        #[arg(long)]
        listen: SocketAddr,
    },
    /// A replica, which is also a candidate for keeping all replicas in step
    Replica(Replica),
}

#[derive(clap::Args, Clone, Debug)]
struct Replica {
    /// Its name, which nobody else has
    #[arg(long)]
    name: String,
    /// Where to serve
    #[arg(long)]
    listen: SocketAddr,
    /// The central store's URL
    #[arg(long)]
    central: String,
    /// Where its configuration is kept
    #[arg(long)]
    directory: PathBuf,
    /// The store of the election's lock
    #[arg(long, env = "TENURE_BACKEND", hide_env_values = true)]
    backend: String,
    /// The election's lock
    #[arg(long, default_value = "config-sync")]
    lock: String,
    /// Milliseconds between two rounds, and between two replicas of one
    #[arg(long, default_value_t = 200)]
    pause: u64,
}

impl Replica {
    fn pause(&self) -> Duration {
        Duration::from_millis(self.pause)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter("config_sync=info,tenure_core=info")
        .with_writer(std::io::stderr)
        .init();
    match Options::parse().role {
        Role::Central { listen } => central::serve(listen).await,
        Role::Replica(options) => replica::run(options).await,
    }
}
