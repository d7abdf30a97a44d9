//! The program of the tutorial `docs/tutorial/fence-a-write.md`: its code is the page's code.

use tenure::{Election, FencingToken, LockName};

/// The resource. It keeps the largest token that it has seen.
struct Account {
    balance: i64,
    token: i64,
}

impl Account {
    /// Compares and writes in one step. A database does this in one statement.
    fn write(&mut self, token: FencingToken, balance: i64) -> Result<(), &'static str> {
        if token.as_i64() < self.token {
            return Err("refused: a later leader has written");
        }
        (self.token, self.balance) = (token.as_i64(), balance);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut account = Account {
        balance: 0,
        token: 0,
    };
    let backend = tenure::connect("memory:").await?;
    let election = Election::builder(backend, LockName::new("account")?).build()?;

    let first = election.campaign().await?;
    let old = first.token();
    println!("first leader: {:?}", account.write(old, 100));
    first.resign().await?;

    let second = election.campaign().await?;
    println!("second leader: {:?}", account.write(second.token(), 250));

    // The first leader was stopped before its next write, and sends it now.
    println!("late write: {:?}", account.write(old, 90));
    println!("balance: {}", account.balance);
    second.resign().await?;
    Ok(())
}
