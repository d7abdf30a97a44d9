//! How a store tells candidates of changes: late, or not at all.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::mpsc;

use super::Moment;
use super::world::World;

/// All who watch a store.
#[derive(Debug)]
pub struct Watchers<T> {
    all: Vec<(usize, mpsc::UnboundedSender<(Moment, T)>)>,
}

impl<T> Default for Watchers<T> {
    fn default() -> Self {
        Self { all: Vec::new() }
    }
}

impl<T: Clone + Send + 'static> Watchers<T> {
    /// Tells everybody.
    pub fn tell(&mut self, world: &World, what: &T) {
        let now = world.now();
        self.all
            .retain(|(candidate, sender)| match world.hint_delay(*candidate) {
                Some(delay) => sender.send((now + delay, what.clone())).is_ok(),
                None => !sender.is_closed(),
            });
    }

    /// Tells one candidate something that may not be true.
    pub fn poke(&mut self, world: &World, whom: usize, what: &T) {
        let now = world.now();
        for (candidate, sender) in &self.all {
            if *candidate == whom {
                // A watcher that has gone does not mind.
                let _gone = sender.send((now, what.clone()));
            }
        }
    }

    /// A stream of what is told from now on. Ends early at times, as when the store closes it.
    pub fn watch(
        &mut self,
        world: &Arc<World>,
        candidate: usize,
    ) -> Pin<Box<dyn Stream<Item = T> + Send>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.all.push((candidate, sender));
        let ends = world.plan.hints_end && world.faults().stormy && world.chance(20);
        let left = if ends {
            world.rng().u32(0..20)
        } else {
            u32::MAX
        };
        let world = world.clone();
        Box::pin(stream::unfold(
            (receiver, left),
            move |(mut receiver, left)| {
                let world = world.clone();
                async move {
                    let left = left.checked_sub(1)?;
                    let (at, what) = receiver.recv().await?;
                    let wait = at.saturating_sub(world.now());
                    if !wait.is_zero() {
                        tokio::time::sleep(wait).await;
                    }
                    Some((what, (receiver, left)))
                }
            },
        ))
    }
}
