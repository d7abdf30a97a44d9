//! Elects a leader on each store that the command line names.

use std::time::Duration;

use tenure::{Election, LockName, Policy};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for url in std::env::args().skip(1) {
        let backend = tenure::connect(&url).await?;
        let election = Election::builder(backend, LockName::new("packaged-service")?)
            .policy(Policy::default())
            .build()?;
        let leadership = election.campaign().await?;
        let token = leadership.permit(Duration::from_secs(1))?.token;
        leadership.resign().await?;
        println!("led on {} under token {token}", tenure::redact(&url));
    }
    Ok(())
}
