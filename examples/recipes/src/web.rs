//! A web service that answers on every instance, and works on the leader alone.
//!
//! | route | on the leader | on the others |
//! |---|---|---|
//! | `GET /livez` | 200, unless the engine is stuck | the same |
//! | `GET /readyz` | 200 | 200: not to lead is no fault, and it has to get requests |
//! | `GET /leader` | 200, its token | 503, with who leads where that is known |
//! | `POST /orders` | 200, under its token | 503, with the leader's address; try again there |

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::routing::{get, post};
use futures_util::FutureExt as _;
use tenure::{Election, ElectionState, Next, Term};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The longest that taking an order can last.
const ORDER: Duration = Duration::from_millis(200);

/// One step of the work in the background.
const STEP: Duration = Duration::from_millis(500);

struct Service {
    election: Election,
    /// The handle to ask beside each side effect. An instance that does not lead has none, or one
    /// that says no.
    term: watch::Sender<Option<Term>>,
}

type Shared = Arc<Service>;

/// Serves until `shutdown`, and works while `election` is won.
pub async fn serve(
    listener: TcpListener,
    election: Election,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let service = Arc::new(Service {
        election: election.clone(),
        term: watch::Sender::new(None),
    });
    let routes = Router::new()
        .route("/livez", get(alive))
        .route("/readyz", get(|| async { "ready" }))
        .route("/leader", get(leader))
        .route("/orders", post(take_order))
        .with_state(service.clone());
    // The server and the election both wait for it.
    let shutdown = shutdown.shared();
    let serving = axum::serve(listener, routes).with_graceful_shutdown(shutdown.clone());
    let leading = election.run_until(shutdown, |term| {
        service.term.send_replace(Some(term.clone()));
        work(term)
    });
    tokio::try_join!(async { Ok::<_, anyhow::Error>(serving.await?) }, async {
        Ok(leading.await?)
    },)?;
    Ok(())
}

/// What only the leader does by itself.
async fn work(term: Term) -> Result<Next, Infallible> {
    let mut steps = 0_u64;
    while !term.is_cancelled() {
        let Ok(permit) = term.permit(STEP) else {
            break;
        };
        steps += 1;
        tracing::debug!(token = %permit.token, steps, "a step");
        // Told to stop in the middle of the wait: the loop's head sees it.
        let _told = term.until_cancelled(tokio::time::sleep(STEP)).await;
    }
    Ok(Next::Campaign)
}

/// Restart this instance when its engine is stuck, not when it merely does not lead.
async fn alive(State(service): State<Shared>) -> StatusCode {
    if service.election.engine_lag() < service.election.policy().lease() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn leader(State(service): State<Shared>) -> (StatusCode, String) {
    // The state may be behind; it is to be shown, not to be acted on.
    match &*service.election.state().borrow() {
        ElectionState::Leader { token } => (StatusCode::OK, format!("leads under token {token}")),
        ElectionState::Candidate {
            leader: Some(leader),
        } => {
            let answer = format!("{} leads", leader.identity.escape_debug());
            (StatusCode::SERVICE_UNAVAILABLE, answer)
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "nobody leads".to_owned()),
    }
}

async fn take_order(State(service): State<Shared>) -> (StatusCode, HeaderMap, String) {
    let term = service.term.borrow().clone();
    // Beside the side effect, and by the clock: the term knows when it is over.
    let permit = term.as_ref().and_then(|term| term.permit(ORDER).ok());
    if let Some(permit) = permit {
        let answer = format!("taken under token {}", permit.token);
        return (StatusCode::OK, HeaderMap::new(), answer);
    }
    let mut headers = HeaderMap::new();
    headers.insert(axum::http::header::RETRY_AFTER, 1.into());
    if let ElectionState::Candidate {
        leader: Some(leader),
    } = &*service.election.state().borrow()
        && let Some(address) = &leader.value
        && let Ok(address) = address.parse()
    {
        headers.insert(HeaderName::from_static("x-leader"), address);
    }
    let answer = "this instance does not lead".to_owned();
    (StatusCode::SERVICE_UNAVAILABLE, headers, answer)
}
