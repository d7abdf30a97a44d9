//! The one thing that no lock can prevent: a pause between the check and the effect.

use std::sync::Arc;
use std::time::Duration;

use tenure_core::record::RecordLock;
use tenure_core::{Election, Identity, LockName, Policy};
use tokio::runtime::Builder;
use tokio::time::sleep;

use super::clock::SimClock;
use super::network::Link;
use super::plan::{Knowledge, Plan};
use super::process::{OnProcess, Process};
use super::records::{RecordServer, SimRecords};
use super::world::World;

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "five independent observations"
)]
pub struct Shown {
    /// The old leader asked for a permit and got it, right before the pause.
    pub checked: bool,
    /// The new leader was valid when the old one's effect happened.
    pub successor_led: bool,
    /// In a register without a fence the old leader's write stands over the new leader's.
    pub old_effect_after_new: bool,
    /// The fenced register took the old leader's write.
    pub accepted_by_fence: bool,
    /// Both terms were valid at the same moment.
    pub both_valid: bool,
}

/// Lets a leader be stopped between its check and its effect, until another leads.
#[expect(clippy::expect_used, reason = "a fixed scene in fine weather")]
pub fn show() -> Shown {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(scene())
}

#[expect(clippy::expect_used, reason = "a fixed scene in fine weather")]
async fn scene() -> Shown {
    let mut plan = Plan::new(1, Duration::from_secs(60));
    plan.knowledge = Knowledge::None;
    let lock = LockName::new("unfenced").expect("a valid name");
    let world = World::new(plan, lock, false);
    let server = Arc::new(std::sync::Mutex::new(RecordServer::new(&world)));
    let (old, stopped) = candidate(&world, &server, 0);
    let (new, _) = candidate(&world, &server, 1);
    let mut shown = Shown::default();
    let mut unfenced_register = 0;

    let leading = old.campaign().await.expect("the first leader");
    let permit = leading.permit(Duration::from_secs(1));
    shown.checked = permit.is_ok();
    let permit = permit.expect("a permit");
    // SIGSTOP, between the check and the effect.
    stopped.freeze();

    let succeeding = new.campaign().await.expect("the second leader");
    shown.both_valid = leading.is_valid() && succeeding.is_valid();
    unfenced_register = succeeding.token().as_u64().max(unfenced_register);
    let (installed, _) = world.write_fenced(0, succeeding.token());
    assert!(installed, "the new leader installs its token");

    sleep(Duration::from_secs(1)).await;
    stopped.thaw();
    // The effect that was permitted before the pause.
    shown.successor_led = succeeding.is_valid();
    let before = std::mem::replace(&mut unfenced_register, permit.token.as_u64());
    shown.old_effect_after_new =
        before == succeeding.token().as_u64() && unfenced_register == permit.token.as_u64();
    (shown.accepted_by_fence, _) = world.write_fenced(0, permit.token);
    shown.both_valid |= leading.is_valid() && succeeding.is_valid();
    world.close();
    shown
}

#[expect(clippy::expect_used, reason = "a fixed scene in fine weather")]
fn candidate(
    world: &Arc<World>,
    server: &Arc<std::sync::Mutex<RecordServer>>,
    number: usize,
) -> (Election, Arc<Process>) {
    let clock = SimClock::new(world.clone(), Duration::from_secs(1000), 0);
    let process = Process::new(world.clone(), number, 0, clock.clone());
    let backend = RecordLock::new(SimRecords {
        link: Link::new(world.clone(), number, 0),
        server: server.clone(),
        clock,
    });
    let election = Election::builder(Arc::new(backend), world.lock.clone())
        .identity(Identity::new(format!("host-{number}")).expect("a valid identity"))
        .policy(Policy::default())
        .spawn_on(OnProcess(process.clone()))
        .seed(u64::try_from(number).unwrap_or_default())
        .build()
        .expect("a valid election");
    (election, process)
}
