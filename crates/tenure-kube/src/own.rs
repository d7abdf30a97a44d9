//! The campaigns of this process, by which it knows itself from an earlier one of the same identity.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tenure_core::CampaignId;
use tenure_core::record::Record;

/// Of all backend values of the process: a second one must not take a lock from the first, whose
/// leader may be at work. A forked child has those of its parent too.
static CAMPAIGNS: LazyLock<Mutex<HashSet<CampaignId>>> = LazyLock::new(Mutex::default);

pub(crate) fn remember(campaign: CampaignId) {
    hold().insert(campaign);
}

/// The term of this record has been given back, so none names its campaign any more.
pub(crate) fn forget(record: &Record) {
    let campaign = record.holder.as_ref().and_then(|holder| holder.campaign);
    if let Some(campaign) = campaign {
        hold().remove(&campaign);
    }
}

pub(crate) fn contains(campaign: CampaignId) -> bool {
    hold().contains(&campaign)
}

fn hold() -> MutexGuard<'static, HashSet<CampaignId>> {
    // Whole at every step.
    CAMPAIGNS.lock().unwrap_or_else(PoisonError::into_inner)
}
