//! Elects two leaders, one after the other, on each store that the command line names.

use std::time::Duration;

use tenure::{Election, FencingToken, LockName};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for url in std::env::args().skip(1) {
        let (first, second) = (one_term(&url).await?, one_term(&url).await?);
        assert!(second > first, "{url}: {second} after {first}");
        println!("{}: tokens {first}, {second}", tenure::redact(&url));
    }
    Ok(())
}

async fn one_term(url: &str) -> Result<FencingToken, Box<dyn std::error::Error>> {
    let backend = tenure::connect(url).await?;
    let lock = LockName::new("packaged-service")?;
    let election = Election::builder(backend, lock).build()?;
    let leadership = election.campaign().await?;
    let permit = leadership.permit(Duration::from_secs(1))?;
    leadership.resign().await?;
    Ok(permit.token)
}
