//! The cases, one module per family. Each is a plain function, and can be called as such.

use futures_util::future::LocalBoxFuture;

use crate::target::Target;
use crate::verdict::Verdict;

pub mod acquiring;
pub mod basics;
pub mod drops;
pub mod errors;
pub mod exclusion;
pub mod expiry;
pub mod hints;
pub mod holders;
pub mod limits;
mod polls;
pub mod queueing;
pub mod releasing;
pub mod renewal;
pub mod sessions;
pub mod tokens;
pub mod wishes;

/// A case of the suite.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Case {
    /// Its family: the module that it is in.
    pub family: &'static str,
    /// Its name: the function's.
    pub name: &'static str,
    /// Whether it disturbs the whole store, so that nothing else may run meanwhile.
    pub alone: bool,
    pub(crate) run: Run,
}

pub(crate) type Run = for<'a> fn(&'a dyn Target) -> LocalBoxFuture<'a, Verdict>;

/// Every case of the suite, by name; the one list that all harnesses expand.
#[doc(hidden)]
#[macro_export]
macro_rules! __cases {
    ($to:tt) => {
        $crate::__each! {
            $to
            shared basics::capabilities_are_sane,
            shared basics::the_clock_goes_on,
            shared exclusion::only_one_of_many_tasks_holds,
            shared exclusion::only_one_of_many_processes_holds,
            shared exclusion::leases_of_silent_holders_never_overlap,
            shared exclusion::connections_share_their_locks,
            shared exclusion::candidates_and_locks_on_one_connection_are_apart,
            shared acquiring::acquiring_again_adopts_the_term,
            shared acquiring::acquiring_again_elsewhere_adopts_the_term,
            shared acquiring::adopting_proves_anew,
            shared acquiring::acquiring_after_a_drop_adopts_the_term,
            alone acquiring::acquiring_after_a_lost_answer_adopts_the_term,
            shared acquiring::equal_identities_never_share_a_term,
            shared acquiring::equal_campaigns_never_share_a_term,
            shared acquiring::a_refusal_tells_the_truth,
            shared acquiring::the_lease_is_granted_as_asked,
            shared renewal::renewing_keeps_the_term,
            shared renewal::renewing_keeps_the_token,
            shared renewal::an_older_grant_of_the_term_renews_it,
            shared renewal::renewing_a_released_term_is_refused,
            shared renewal::renewing_after_a_successor_is_refused,
            shared renewal::renewing_after_a_namesake_is_refused,
            shared renewal::renewing_as_another_owner_is_refused,
            shared renewal::renewing_what_was_never_granted_is_refused,
            shared renewal::renewing_after_the_lease_never_makes_two,
            shared renewal::renewing_gives_a_proof_as_fresh_as_asked,
            shared renewal::a_write_beside_the_record_costs_no_term,
            shared expiry::a_lease_never_ends_early,
            shared expiry::a_renewed_lease_never_ends_early,
            shared expiry::a_lease_ends_in_time,
            shared expiry::a_lease_ends_in_time_without_its_connection,
            shared expiry::a_lease_ends_in_time_without_its_process,
            shared expiry::the_holders_lease_counts,
            shared expiry::a_shortened_lease_is_kept_as_told,
            shared expiry::a_lock_written_again_is_judged_anew,
            shared expiry::looking_does_not_extend_a_lease,
            shared expiry::a_write_beside_the_record_shows_no_life,
            shared expiry::a_proof_is_read_before_its_request,
            alone expiry::a_late_answer_does_not_stretch_the_lease,
            shared sessions::a_reset_ends_the_term_before_the_next,
            shared sessions::a_reset_under_a_renewal_ends_the_term_before_the_next,
            shared sessions::an_end_of_answers_ends_the_term_before_the_next,
            shared sessions::a_session_that_the_store_ends_is_told,
            shared sessions::a_session_that_an_operator_ends_is_told,
            shared sessions::a_lost_connection_is_told_to_all_its_terms,
            shared sessions::a_cut_off_holder_keeps_the_lock_for_its_lease,
            shared drops::a_dropped_acquire_can_be_withdrawn,
            shared drops::a_dropped_acquire_ends_with_its_lease,
            shared drops::a_dropped_renew_can_be_repeated,
            shared drops::a_dropped_renew_ends_with_its_lease,
            shared drops::a_dropped_release_can_be_repeated,
            shared drops::a_dropped_withdraw_can_be_repeated,
            shared drops::a_dropped_look_changes_nothing,
            shared hints::a_release_wakes_a_waiter,
            shared hints::a_withdrawal_wakes_a_waiter,
            shared hints::a_dropped_stream_leaves_the_others,
            shared hints::a_lock_at_rest_gives_no_flood_of_hints,
            shared tokens::tokens_rise_over_a_release,
            shared tokens::tokens_rise_over_a_withdrawal,
            shared tokens::tokens_rise_over_expiry,
            shared tokens::tokens_rise_over_a_deletion,
            alone tokens::tokens_rise_over_a_restart,
            alone tokens::a_restart_ends_no_lease_early,
            shared holders::an_unknown_lock_is_free,
            shared holders::the_leader_is_told,
            shared holders::the_leader_knows_itself,
            shared holders::a_renewal_publishes_a_new_value,
            shared holders::publishing_reaches_the_store,
            shared holders::observers_follow_a_change,
            shared holders::observers_see_a_lease_end,
            shared holders::a_first_look_proves_no_life,
            shared releasing::a_release_frees_at_once,
            shared releasing::a_release_may_be_repeated,
            shared releasing::a_late_release_leaves_a_successor_alone,
            shared releasing::a_late_release_leaves_the_next_term_alone,
            shared releasing::releasing_as_another_owner_frees_nothing,
            shared releasing::withdrawing_frees_what_an_attempt_got,
            shared releasing::withdrawing_leaves_the_holder_alone,
            shared releasing::withdrawing_as_another_owner_frees_nothing,
            shared releasing::withdrawing_from_a_free_lock_is_fine,
            shared wishes::a_wish_reaches_its_leader,
            shared wishes::a_late_wish_asks_nothing_of_the_next_term,
            shared queueing::waiters_win_in_order,
            shared queueing::withdrawing_leaves_the_queue,
            shared queueing::withdrawing_as_another_owner_leaves_the_queue_alone,
            shared queueing::a_silent_waiter_does_not_block_the_queue,
            shared queueing::a_waiter_is_not_shown_as_the_leader,
            shared errors::a_deleted_lock_is_lost,
            shared errors::a_deleted_lock_can_be_acquired,
            shared errors::a_damaged_lock_never_has_two_holders,
            shared errors::a_damaged_lock_recovers_by_deletion,
            shared errors::an_absent_store_gives_typed_errors,
            shared errors::secrets_are_not_shown,
            shared limits::names_at_their_limits,
            shared limits::long_names_differ_to_their_end,
            shared limits::similar_names_are_different_locks,
            shared limits::identities_at_their_limits,
            shared limits::similar_identities_are_different,
            shared limits::values_at_their_limits,
            shared limits::a_thousand_locks_on_one_connection,
        }
    };
}

/// How many cases there are. Written down apart from the list, so that none can vanish from it
/// unnoticed.
pub const EXPECTED_CASES: usize = 100;

/// Expands the list of cases to what is asked for.
#[doc(hidden)]
#[macro_export]
macro_rules! __each {
    ([table] $($mode:ident $family:ident :: $case:ident,)*) => {
        &[$(Case {
            family: stringify!($family),
            name: stringify!($case),
            alone: $crate::__each!(@alone $mode),
            run: |target| Box::pin($family::$case(target)),
        },)*]
    };
    ([tests $suite:ident $target:tt] $($mode:ident $family:ident :: $case:ident,)*) => {
        mod $suite {
            #[allow(unused_imports)]
            use super::*;

            $(
                #[test]
                fn $case() {
                    $crate::__run(stringify!($suite), stringify!($case), async || $target);
                }
            )*
        }
    };
    (@alone alone) => { true };
    (@alone shared) => { false };
}

/// All cases.
pub fn cases() -> &'static [Case] {
    __cases!([table])
}
