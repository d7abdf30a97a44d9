//! Watches who leads without being a candidate: two candidates hand over a few times meanwhile.
#![allow(missing_docs, reason = "an example has no callers")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tenure::{
    Election, Identity, LockBackend, LockName, Observation, Observer, Policy, PublishedValue,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "memory:".to_owned());
    let backend = tenure::connect(&url).await?;
    let lock = LockName::new("example.observe")?;

    let observer = Observer::new(backend.clone(), lock.clone(), Policy::default());
    let mut changes = observer.watch();
    for name in ["ada", "grace"] {
        tokio::spawn(lead_now_and_then(backend.clone(), lock.clone(), name));
    }

    for _ in 0..8 {
        match changes.next().await {
            Some(Observation::Led {
                identity,
                value,
                token,
                ..
            }) => {
                let address = value.unwrap_or_default();
                println!("{identity:?} leads at {address}, token {token:?}");
            }
            Some(Observation::Free) => println!("nobody leads"),
            Some(other) => println!("cannot tell: {other:?}"),
            None => break,
        }
    }
    Ok(())
}

async fn lead_now_and_then(
    backend: Arc<dyn LockBackend>,
    lock: LockName,
    name: &str,
) -> anyhow::Result<()> {
    let election = Election::builder(backend, lock)
        .identity(Identity::new(name)?)
        .value(PublishedValue::new(format!("http://{name}.example:8080"))?)
        .build()?;
    loop {
        let leadership = election.campaign().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        leadership.resign().await?;
        // Let the other one lead.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
