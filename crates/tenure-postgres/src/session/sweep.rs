//! Unlocks what nobody renews any more.

use std::sync::Weak;

use super::Session;

/// Unlocks abandoned locks for as long as the session lives.
pub(crate) async fn sweep(session: Weak<Session>) {
    let Some(alive) = session.upgrade() else {
        return;
    };
    let mut end = std::pin::pin!(alive.end());
    let (notifications, acquired) = (alive.notifications.clone(), alive.acquired.clone());
    let clock = alive.clock.clone();
    drop(alive);
    loop {
        let Some(alive) = session.upgrade() else {
            return;
        };
        let next = alive.unlock_overdue().await;
        // Not kept alive by this wait.
        drop(alive);
        let look = async {
            match next {
                Some(at) => clock.sleep_until(at).await,
                None => acquired.notified().await,
            }
        };
        tokio::select! {
            biased;
            _error = &mut end => {
                notifications.missed_something();
                return;
            }
            () = look => {}
        }
    }
}
