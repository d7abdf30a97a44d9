//! Tells those who wait for a lock of its changes, by one watch stream for all elections of a
//! backend.

mod pace;
mod registry;
mod watcher;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::connector::Connector;
pub(crate) use registry::Notifications;
use watcher::Watcher;

/// Watches nothing, and does no I/O, before there is a lock to watch.
pub(crate) fn start(connector: &Arc<Connector>) -> Arc<Notifications> {
    let (commands, taken) = mpsc::unbounded_channel();
    let config = connector.config.clone();
    let notifications = Notifications::new(config, connector.tasks.clone(), commands);
    let watcher = Watcher::new(connector.clone(), Arc::downgrade(&notifications), taken);
    connector.tasks.spawn(watcher.run());
    notifications
}
