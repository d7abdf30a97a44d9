//! A candidate of the fault suite.

use clap::Parser as _;
use tenure_chaos::candidate::{Options, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(Options::parse()).await
}
