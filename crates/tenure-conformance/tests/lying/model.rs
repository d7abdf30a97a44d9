//! A store in memory, honest or not, as a target that has all hooks but one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tenure_conformance::{Answers, Hook, Proxied, Target};
use tenure_core::{Error, FencingToken, LockBackend, LockName, SharedClock, Wish};

use crate::backend::Connection;
use crate::clock::{PATIENCE, TokioClock};
use crate::lies::{Honest, Lie};
use crate::network::{MOST_BREAKS, ModelNetwork, Wire, tear_after};
use crate::store::{SECRET, Store};

/// One way of a request or an answer.
pub(crate) const LEG: Duration = Duration::from_millis(1);

/// A store in memory, honest or not, that can do all that hooks ask for.
pub(crate) struct ModelTarget {
    model: Arc<Model>,
    connections: AtomicU64,
}

pub(crate) struct Model {
    pub(crate) lie: Option<Lie>,
    pub(crate) kind: Honest,
    pub(crate) clock: SharedClock,
    store: Mutex<Store>,
    /// The last wish for each lock.
    wishes: Mutex<HashMap<LockName, Wish>>,
    pub(crate) wires: Mutex<HashMap<u64, Weak<Wire>>>,
}

impl Model {
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        // One lie panics while it holds the lock; the others shall go on.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Model {
    pub(crate) fn leave_wish(&self, lock: &LockName, wish: Wish) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.insert(lock.clone(), wish);
    }

    /// What the renewal of the term with `token` tells.
    pub(crate) fn wish(&self, lock: &LockName, token: FencingToken) -> Option<Wish> {
        let wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        let wish = wishes.get(lock)?;
        match self.lie {
            Some(Lie::WishUnheard) => None,
            Some(Lie::WishForAnyTerm) => Some(Wish::new(token, wish.until)),
            _ => Some(*wish),
        }
    }
}

impl ModelTarget {
    pub(crate) fn new(kind: Honest, lie: Option<Lie>) -> Self {
        Self {
            model: Arc::new(Model {
                lie,
                kind,
                clock: Arc::new(TokioClock::new(lie == Some(Lie::ClockStands))),
                store: Mutex::new(Store::new(kind, lie)),
                wishes: Mutex::default(),
                wires: Mutex::default(),
            }),
            connections: AtomicU64::new(0),
        }
    }

    fn open(&self, absent: bool) -> Arc<dyn LockBackend> {
        self.open_wire(absent).0
    }

    fn open_wire(&self, absent: bool) -> (Arc<dyn LockBackend>, Arc<Wire>) {
        let id = self.connections.fetch_add(1, Ordering::Relaxed);
        let wire = Arc::new(Wire::new(id));
        let mut wires = self
            .model
            .wires
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        wires.insert(id, Arc::downgrade(&wire));
        let connection = Connection::new(self.model.clone(), wire.clone(), absent);
        (Arc::new(connection), wire)
    }
}

#[async_trait]
impl Target for ModelTarget {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        Ok(self.open(false))
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.to_owned()]
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.model.store().delete(lock.as_str());
        Hook::Done
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        self.model.store().corrupt(lock.as_str());
        Hook::Done
    }

    async fn restart_store(&self) -> Hook {
        self.model.store().restart();
        Hook::Done
    }

    async fn answers(&self, answers: Answers) -> Hook {
        self.model.store().answers = answers;
        Hook::Done
    }

    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        let (backend, wire) = self.open_wire(false);
        let model = self.model.clone();
        Some(Ok(Proxied::on(backend, ModelNetwork { model, wire })))
    }

    async fn end_session(&self, lock: &LockName) -> Hook {
        self.model.end_session(lock);
        Hook::Done
    }

    async fn connect_to_nothing(&self) -> Option<Result<Arc<dyn LockBackend>, Error>> {
        Some(Ok(self.open(true)))
    }
}

impl Model {
    pub(crate) fn session_of(&self, wire: &Wire, breaks: u64) -> u64 {
        if self.kind == Honest::Session {
            wire.session(breaks)
        } else {
            wire.id
        }
    }

    /// An operator ends the session of a lock; its client is told.
    pub(crate) fn end_session(&self, lock: &LockName) {
        let Some(session) = self.store().session_of(lock.as_str()) else {
            return;
        };
        self.store().session_over(session);
        let wires = self.wires.lock().unwrap_or_else(PoisonError::into_inner);
        let wire = wires
            .get(&(session / MOST_BREAKS))
            .and_then(std::sync::Weak::upgrade);
        if let Some(wire) = wire
            && wire.session(wire.breaks()) == session
        {
            if self.lie == Some(Lie::LossUntoldByTheStore) {
                wire.deaf().insert(session);
            }
            tear_after(&wire, LEG);
        }
    }
}
