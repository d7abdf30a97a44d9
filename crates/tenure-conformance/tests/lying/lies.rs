//! Every way to break the contract, and the honest stores that they are built on.

use std::sync::Arc;

use tenure_conformance::Target;

use crate::directory::DirectoryTarget;
use crate::model::ModelTarget;
use crate::observed::ObservedTarget;

/// Stores that keep the contract, of each kind that the cases tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Honest {
    /// Expiry by the store, pushes, no order.
    Race,
    /// Expiry by the store, pushes, first come first served.
    Fifo,
    /// Locks end with the session that holds them, pushes, no order.
    Session,
    /// Expiry by observation, polled.
    Observed,
    /// A directory that several processes share.
    Directory,
}

impl Honest {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Race,
        Self::Fifo,
        Self::Session,
        Self::Observed,
        Self::Directory,
    ];
}

macro_rules! lies {
    ($($(#[doc = $text:literal])+ $base:ident $lie:ident,)*) => {
        /// One way to break the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
                pub(crate) enum Lie {
            $($(#[doc = $text])+ $lie,)*
        }

        impl Lie {
            /// All of them.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$lie,)*];

            /// The honest store that this lie is built on.
            pub(crate) fn base(self) -> Honest {
                match self {
                    $(Self::$lie => Honest::$base,)*
                }
            }

            /// What it does wrong.
            pub(crate) fn about(self) -> &'static str {
                match self {
                    $(Self::$lie => concat!($($text),+).trim_ascii(),)*
                }
            }
        }
    };
}

lies! {
    /// The shortest lease is nothing.
    Race NoMinLease,
    /// The clock stands.
    Race ClockStands,
    /// Every third attempt is granted, held or not.
    Race GrantsTwice,
    /// Each connection has locks of its own.
    Race ConnectionsApart,
    /// A held lock is granted to every candidate with the holder's identity.
    Race SharesByIdentity,
    /// A campaign that holds the lock already is refused.
    Race AdoptsNothing,
    /// What was acquired on another connection is not adopted.
    Race AdoptsPerConnection,
    /// An adopted term has the proof of the lost attempt.
    Race AdoptsWithOldProof,
    /// An adopted term ends with the lease of the lost attempt.
    Race AdoptsWithoutExtending,
    /// A refusal names the one who asked as the holder.
    Race RefusalNamesTheAsker,
    /// A refusal says that the lock is held for ten leases.
    Race RefusalOversleeps,
    /// Grants say twice the lease that the store keeps.
    Race GrantsLongerLeases,
    /// A renewal leaves the end of the lease where it was.
    Race RenewDoesNotExtend,
    /// Each renewal has a new token.
    Race RenewChangesTheToken,
    /// Only the grant of the last renewal renews.
    Race RenewRefusesOlderGrants,
    /// A renewal writes the lock if there is none.
    Race RenewUpserts,
    /// A renewal takes the lock from its holder.
    Race RenewTakesOver,
    /// A renewal asks for the identity only.
    Race RenewByIdentity,
    /// A renewal is always confirmed.
    Race RenewAsksNobody,
    /// A renewal hands out the proof of the one before.
    Race RenewWithOldProof,
    /// Proofs are read when the answer has come.
    Race ProofAfterAnswer,
    /// A wish is taken, and no renewal has it.
    Race WishUnheard,
    /// Whatever term a wish names, the next renewal has it for its own.
    Race WishForAnyTerm,
    /// Leases end after half their time.
    Race ExpiresEarly,
    /// Renewed leases end after half their time.
    Race RenewedExpiresEarly,
    /// Leases do not end.
    Race NeverExpires,
    /// Leases end an hour late.
    Race ExpiresLate,
    /// Leases do not end once their connection is gone.
    Race GoneConnectionsKeepLocks,
    /// The lease of the candidate who asks counts.
    Race JudgesByTheAskersLease,
    /// Looking at a lock renews it.
    Race LookingExtends,
    /// What a dropped acquire has left is kept alive.
    Race AcquireKeepsOrphans,
    /// What a dropped renew has left is kept alive.
    Race RenewKeepsOrphans,
    /// A renewal removes the lock and writes it again.
    Race RenewInTwoSteps,
    /// A release notes that it was sent, and is not sent again.
    Race ReleaseOnlyOnce,
    /// A withdrawal notes that it was sent, and is not sent again.
    Race WithdrawOnlyOnce,
    /// After a look was dropped the connection gives no more answers to looks.
    Race DroppedLookWedges,
    /// A withdrawal does nothing.
    Race WithdrawDoesNothing,
    /// A release gives no hint.
    Race ReleaseWakesNobody,
    /// A withdrawal gives no hint.
    Race WithdrawWakesNobody,
    /// Only the first stream of a connection and lock gives hints.
    Race HintsOnlyForTheFirst,
    /// Hints come without end.
    Race HintsFlood,
    /// All terms have the same token.
    Race TokenReuse,
    /// The term after a lease that has ended has its token.
    Race TokenKeptOverExpiry,
    /// The term after a withdrawal has the token from before.
    Race TokenKeptOverWithdrawal,
    /// Tokens start again at one when a lock is deleted.
    Race TokenInTheRecord,
    /// Tokens start again at one when the store is restarted.
    Race TokenInMemory,
    /// Locks are forgotten when the store is restarted.
    Race LocksInMemory,
    /// A free lock is said to be held.
    Race HolderInvented,
    /// A held lock is said to be free.
    Race HolderAlwaysFree,
    /// On the leader's own connection its lock is said to be of unknown state.
    Race HolderUnsureOfItself,
    /// The published value is lost.
    Race ValuesLost,
    /// The published value is the one of the acquisition.
    Race ValuesFrozen,
    /// A released lock is said to be held.
    Race HolderOutlivesRelease,
    /// A lock whose lease has ended is said to be held.
    Race HolderOutlivesLease,
    /// A release does nothing.
    Race ReleaseDoesNothing,
    /// Releasing what is released already is an error.
    Race SecondReleaseFails,
    /// A release frees the lock, whoever holds it.
    Race ReleaseByName,
    /// A release frees the lock if the holder has the identity.
    Race ReleaseByIdentity,
    /// A release frees all locks whose names begin like this one's.
    Race ReleaseByPrefix,
    /// A withdrawal frees the lock, whoever holds it.
    Race WithdrawRemovesTheHolder,
    /// Withdrawing from a free lock is an error.
    Race WithdrawOfNothingFails,
    /// A lock that was deleted is never granted again.
    Race DeletedStaysTaken,
    /// A damaged record is a panic.
    Race DamagePanics,
    /// A damaged record is granted to everybody.
    Race DamageGrantsToAll,
    /// A damaged record stays so when it is deleted.
    Race DamageStays,
    /// Errors are of kind Internal.
    Race ErrorsInternal,
    /// Errors do not say what was being done.
    Race ErrorsOfNoOperation,
    /// Without a store, calls say that all is well.
    Race AbsenceUnnoticed,
    /// The debug output shows the password.
    Race SecretInDebug,
    /// Errors show the password.
    Race SecretInErrors,
    /// Names of more than 63 bytes are refused.
    Race LongNamesRefused,
    /// Names are cut off after 63 bytes.
    Race NamesTruncated,
    /// Dots in names become hyphens.
    Race DotsBecomeHyphens,
    /// Quotes and backslashes in identities are lost.
    Race IdentitiesUnquoted,
    /// Identities are written in lower case.
    Race IdentitiesLowercased,
    /// Values are cut off after 255 bytes.
    Race ValuesTruncated,
    /// A connection holds at most 512 locks.
    Race FullAt512,
    /// A lock is adopted by the campaign's number alone.
    Race AdoptsByCampaign,
    /// A held lock is granted to every candidate on the holder's connection.
    Race AdoptsByConnection,
    /// A renewal asks for the campaign's number and the token, and not for the identity.
    Race RenewByCampaign,
    /// A release asks for the campaign's number and the token, and not for the identity.
    Race ReleaseByCampaign,
    /// A withdrawal asks for the campaign's number, and not for the identity.
    Race WithdrawByCampaign,
    /// A release frees all locks of its connection.
    Race ReleaseByConnection,
    /// A renewal that shortens the lease says the lease from before.
    Race RenewTellsTheOldLease,
    /// A renewal is answered before its value is written.
    Race ValuesLate,
    /// Locks end with their connection, although the store claims that it ends leases.
    Race LocksEndWithConnections,
    /// The end of a session is not noticed before somebody asks.
    Session NoLoss,
    /// The backend looks for the end of a session every few seconds only.
    Session LossLate,
    /// A term is said to be over while it goes on.
    Session LossInvented,
    /// The end of a session is not noticed while a renewal is under way.
    Session LossMissedUnderRenewal,
    /// Only a reset is noticed, and not a connection that is closed.
    Session LossOnlyOfResets,
    /// The end of a session that the store has ended is not noticed.
    Session LossUntoldByTheStore,
    /// Only the first term of a connection is told of its end.
    Session LossOfTheFirstTermOnly,
    /// A renewal after the end of the session takes the lock again.
    Session RenewAfterLoss,
    /// The store ends a session that is silent for a moment.
    Session SilenceEndsSessions,
    /// The first to ask wins, although the store claims an order.
    Fifo QueueUnfair,
    /// Who withdraws keeps the place in the queue.
    Fifo QueueKeepsTheWithdrawn,
    /// Waiters that have fallen silent keep their place in the queue.
    Fifo QueueKeepsTheSilent,
    /// A withdrawal takes away the place of the same campaign number or identity.
    Fifo QueueByHalfTheName,
    /// The first in the queue is shown as the leader of a free lock.
    Fifo QueueShowsItsFirst,
    /// A record that was never seen to change is said to name the leader.
    Observed FirstLookIsProof,
    /// Leases are judged by observation, and never end.
    Observed ObservedForEver,
    /// A record that was written again with a version seen before is taken for the one from then.
    Observed ObservedByVersionAlone,
    /// Another program's write is taken for a renewal.
    Observed ObservedWritesBeside,
    /// Another program's write takes the holder's campaign off the record and off its mark.
    Observed ObservedForgetsItsHolder,
    /// Writes replace whatever is there.
    Directory WritesUnconditionally,
    /// Leases of other processes do not end.
    Directory DeadProcessesKeepLocks,
}

/// An honest target of this kind.
pub(crate) fn honest(kind: Honest) -> Arc<dyn Target> {
    target(kind, None)
}

/// A target that tells this lie.
pub(crate) fn lying(lie: Lie) -> Arc<dyn Target> {
    target(lie.base(), Some(lie))
}

fn target(kind: Honest, lie: Option<Lie>) -> Arc<dyn Target> {
    match kind {
        Honest::Race | Honest::Fifo | Honest::Session => Arc::new(ModelTarget::new(kind, lie)),
        Honest::Observed => Arc::new(ObservedTarget::new(lie)),
        Honest::Directory => Arc::new(DirectoryTarget::new(lie)),
    }
}
