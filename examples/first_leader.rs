//! The service of the tutorial `docs/tutorial/first-leader.md`: its code is the page's code.

use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let election = tenure::from_env()?.election().await?;
    println!("{} waits", election.identity());
    let leadership = election.campaign().await?; // waits until elected
    loop {
        // Before each side effect: do I still lead, for as long as the effect can take?
        let permit = leadership.permit(Duration::from_secs(2))?;
        println!("working under fencing token {}", permit.token);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
