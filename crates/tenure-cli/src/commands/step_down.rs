//! `tenure step-down`: asks the leader to resign, and tells who leads afterwards.

use std::time::Duration;

use serde_json::{Value, json};
use tenure::{
    BootClock, Clock as _, Error, FencingToken, Holder, LockBackend, LockName, Occupancy,
    Operation, Registry, Time,
};

use crate::failure::{Failure, exit};
use crate::options::{self, StepDownArgs};
use crate::output::{LeaderView, print};

/// How long the store may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

const SHORTEST_LIMIT: Duration = Duration::from_secs(1);

/// How soon it is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The wish is left again so often: a leader that publishes a value at the same moment may write
/// over it.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// How long a successor is waited for, at most.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(5);

/// `tenure step-down`.
pub(crate) fn step_down(args: &StepDownArgs, registry: &Registry) -> Result<u8, Failure> {
    let lock = options::lock(&args.lock_args.lock)?;
    let timeout = options::duration("--timeout", &args.timeout)?;
    let url = args.lock_args.backend.url()?;
    let outcome = options::runtime()?.block_on(async {
        let backend = registry.connect(&url).await?;
        let ends = BootClock.now() + timeout;
        Asking {
            backend: &*backend,
            lock: &lock,
            ends,
        }
        .carry_out()
        .await
    })?;
    let line = if args.json {
        outcome.json(&lock).to_string()
    } else {
        outcome.text(&lock)
    };
    print(&line)?;
    Ok(outcome.exit_code())
}

/// What came of it.
struct Outcome {
    /// Who was asked; nobody where nobody led.
    asked: Option<(String, FencingToken)>,
    /// Whether its term is over.
    resigned: bool,
    /// Who leads now.
    now: Occupancy,
}

impl Outcome {
    fn exit_code(&self) -> u8 {
        match (&self.asked, self.resigned) {
            (None, _) => exit::NO_LEADER,
            (Some(_), true) => 0,
            (Some(_), false) => exit::STILL_LEADS,
        }
    }

    fn json(&self, lock: &LockName) -> Value {
        let mut object = LeaderView::from(self.now.clone()).json(lock);
        let asked = self.asked.as_ref();
        object["asked"] = json!(
            asked.map(|(leader, token)| json!({ "leader": leader, "token": token.as_u64() }))
        );
        object["resigned"] = Value::Bool(self.resigned);
        object
    }

    fn text(&self, lock: &LockName) -> String {
        let now = LeaderView::from(self.now.clone()).text(lock);
        let Some((leader, token)) = &self.asked else {
            return now;
        };
        let leader = leader.escape_debug();
        if self.resigned {
            return format!("the term of {leader} with token {token} is over; {now}");
        }
        format!(
            "{leader} was asked to resign and still leads with token {token}: no heartbeat came in \
             this time, its work has not stopped yet, or its version of tenure does not know the \
             wish; give --timeout more than its heartbeat and its drain limit, or look again with \
             tenure status"
        )
    }
}

struct Asking<'a> {
    backend: &'a dyn LockBackend,
    lock: &'a LockName,
    /// When the wish ends, and we give up.
    ends: Time,
}

impl Asking<'_> {
    async fn carry_out(&self) -> Result<Outcome, Failure> {
        let mut now = self.look().await?;
        // On Kubernetes a record tells its token from the first heartbeat on.
        while is_led(&now) && token_of(&now).is_none() && BootClock.now() < self.ends {
            tokio::time::sleep(LOOK_AGAIN).await;
            now = self.look().await?;
        }
        let (Occupancy::Led(holder) | Occupancy::Unknown(holder)) = now else {
            return Ok(Outcome {
                asked: None,
                resigned: false,
                now,
            });
        };
        let token = holder.token.ok_or_else(|| no_token(self.lock, &holder))?;
        let leader = holder.identity.clone();
        let mut now = Occupancy::Led(holder);
        let mut ask_at = BootClock.now();
        let mut failed = None;
        while BootClock.now() < self.ends {
            match self.ask_and_look(token, &mut ask_at).await {
                Ok(seen) => (now, failed) = (seen, None),
                // The wish may have been left: the store is asked again.
                Err(error) if error.is_retryable() => {
                    failed = Some(error);
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
            if failed.is_none() && is_over(&now, &leader, token) {
                return Ok(Outcome {
                    asked: Some((leader, token)),
                    resigned: true,
                    now: self.successor(now).await,
                });
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        Ok(Outcome {
            asked: Some((leader, token)),
            resigned: false,
            now,
        })
    }

    async fn ask_and_look(
        &self,
        token: FencingToken,
        ask_at: &mut Time,
    ) -> Result<Occupancy, Error> {
        if BootClock.now() >= *ask_at {
            self.ask(token).await?;
            *ask_at = BootClock.now() + ASK_AGAIN;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        self.look().await
    }

    async fn ask(&self, token: FencingToken) -> Result<(), Error> {
        let left = self.ends.since(BootClock.now());
        let asking = self.backend.ask_to_resign(self.lock, token, left);
        let limit = self.limit();
        match tokio::time::timeout(limit, asking).await {
            Ok(asked) => asked,
            Err(_) => Err(Error::timeout(Operation::AskToResign, limit)),
        }
    }

    /// Waits until there is a leader, for a moment. That the term is over is known already.
    async fn successor(&self, mut now: Occupancy) -> Occupancy {
        let ends = self.ends.min(BootClock.now() + SUCCESSOR_LIMIT);
        while token_of(&now).is_none() && BootClock.now() < ends {
            tokio::time::sleep(LOOK_AGAIN).await;
            let Ok(seen) = self.look().await else {
                return now;
            };
            now = seen;
        }
        now
    }

    async fn look(&self) -> Result<Occupancy, Error> {
        let limit = self.limit();
        match tokio::time::timeout(limit, self.backend.holder(self.lock)).await {
            Ok(occupancy) => occupancy,
            Err(_) => Err(Error::timeout(Operation::Holder, limit)),
        }
    }

    /// For one call: no longer than the whole, but long enough for one that is begun at its end.
    fn limit(&self) -> Duration {
        LIMIT.min(self.ends.since(BootClock.now()).max(SHORTEST_LIMIT))
    }
}

fn is_led(occupancy: &Occupancy) -> bool {
    matches!(occupancy, Occupancy::Led(_) | Occupancy::Unknown(_))
}

/// Whether the leader's term with this token is over. Another program may have removed the token
/// from the record of a term that goes on.
fn is_over(occupancy: &Occupancy, leader: &str, token: FencingToken) -> bool {
    let (Occupancy::Led(holder) | Occupancy::Unknown(holder)) = occupancy else {
        return true;
    };
    match holder.token {
        Some(told) => told != token,
        None => holder.identity != leader,
    }
}

fn token_of(occupancy: &Occupancy) -> Option<FencingToken> {
    match occupancy {
        Occupancy::Led(holder) | Occupancy::Unknown(holder) => holder.token,
        _ => None,
    }
}

fn no_token(lock: &LockName, holder: &Holder) -> Failure {
    Failure::new(format!(
        "the record of {lock} names {}, and no token: another program leads, and cannot be asked; \
         stop that program",
        holder.identity.escape_debug()
    ))
}
