//! Seeded bugs: each replaces a piece of the source, and the simulator must notice.
//!
//! The bugs are replacements of source text, so production code has no hooks for them. A text
//! that is not found exactly once is an error: when the code changes its mutants are looked at
//! again, they cannot rot.

use crate::sim::checker::Invariant;

/// A seeded bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// What it breaks: an invariant (I1 to I6), a hazard's number, or a promise of the contract.
    pub breaks: &'static str,
    /// What the simulator must find broken: another invariant, a hang or a build that fails is
    /// no kill.
    pub invariant: Invariant,
    /// The file, from the workspace's root.
    pub file: &'static str,
    /// What is replaced; found exactly once.
    pub find: &'static str,
    /// By what.
    pub replace: &'static str,
}

const MACHINE: &str = "crates/tenure-core/src/election/machine/mod.rs";
const CANDIDATE: &str = "crates/tenure-core/src/election/machine/candidate.rs";
const LEADER: &str = "crates/tenure-core/src/election/machine/leader.rs";
const GIVING_BACK: &str = "crates/tenure-core/src/election/machine/giving_back.rs";
const STATE: &str = "crates/tenure-core/src/election/machine/state.rs";
const ENGINE: &str = "crates/tenure-core/src/election/engine/mod.rs";
const CALLS: &str = "crates/tenure-core/src/election/engine/calls.rs";
const QUESTIONS: &str = "crates/tenure-core/src/election/engine/questions.rs";
const TERM: &str = "crates/tenure-core/src/election/term.rs";
const POLICY: &str = "crates/tenure-core/src/policy.rs";
const RECORD_LOCK: &str = "crates/tenure-core/src/record/lock.rs";
const OBSERVATION: &str = "crates/tenure-core/src/record/observation.rs";
const OBSERVER: &str = "crates/tenure-core/src/election/observer.rs";
const GENERATION: &str = "crates/tenure-core/src/compose/generation.rs";
const TOKEN: &str = "crates/tenure-core/src/contract/token.rs";
const CONTEXT: &str = "crates/tenure-core/src/election/context.rs";
const BOTH: &str = "crates/tenure-core/src/compose/both.rs";
const TTL: &str = "tests/src/sim/ttl.rs";
const SESSION: &str = "tests/src/sim/session.rs";

/// All seeded bugs.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "deadline-from-reply",
        breaks: "I1, hazard 2: the lease counts from the answer, not from the request",
        invariant: Invariant::Covered,
        file: RECORD_LOCK,
        find: "Grant::new(lock.clone(), candidate.clone(), token, lease, proven_at).with_state(written)",
        replace: "Grant::new(lock.clone(), candidate.clone(), token, lease, proven_at.max(self.now())).with_state(written)",
    },
    Mutant {
        name: "deadline-from-handling",
        breaks: "I1: a late answer to acquire counts from when it is handled",
        invariant: Invariant::Covered,
        file: CANDIDATE,
        find: "let Some(span) = self.span_to_begin_with(proven_at, lease) else {",
        replace: "let Some(span) = self.span_to_begin_with(proven_at.max(now), lease) else {",
    },
    Mutant {
        name: "validity-is-lease",
        breaks: "I2: neither drift nor margin",
        invariant: Invariant::Covered,
        file: POLICY,
        find: "        shrunk.saturating_sub(margin)",
        replace: "        shrunk.saturating_sub(margin).max(lease)",
    },
    Mutant {
        name: "no-drift",
        breaks: "I2: the margin alone, without the clocks' drift",
        invariant: Invariant::Covered,
        file: POLICY,
        find: "lease.as_nanos() * (1_000_000 - ppm) / (1_000_000 + ppm)",
        replace: "lease.as_nanos() * (1_000_000 + ppm) / (1_000_000 + ppm)",
    },
    Mutant {
        name: "told-at-the-end",
        breaks: "I4: the work is told when the validity ends, without its grace",
        invariant: Invariant::ToldInTime,
        file: MACHINE,
        find: "cancel_at: valid_until.minus(self.policy.stop_grace()),",
        replace: "cancel_at: valid_until,",
    },
    Mutant {
        name: "grace-twice",
        breaks: "I3: the stop grace is subtracted twice, so no heartbeat comes in time",
        invariant: Invariant::Tolerance,
        file: MACHINE,
        find: "cancel_at: valid_until.minus(self.policy.stop_grace()),",
        replace: "cancel_at: valid_until.minus(self.policy.stop_grace() * 2),",
    },
    Mutant {
        name: "first-sight",
        breaks: "I5: a lease runs from the first sight of a record although it has changed since",
        invariant: Invariant::Exclusive,
        file: OBSERVATION,
        find: "        if seen.mark != mark {\n            *seen = Seen {\n                mark,\n                at: now,",
        replace: "        if seen.mark != mark {\n            *seen = Seen {\n                mark,\n                at: seen.at,",
    },
    Mutant {
        name: "own-duration",
        breaks: "hazard 26: the observer's idea of the lease, not the record's",
        invariant: Invariant::Exclusive,
        file: OBSERVATION,
        find: "let lease = found.record.lease.min(MAX_LEASE);",
        replace: "let lease = found.record.lease.min(MAX_LEASE).min(Duration::from_secs(5));",
    },
    Mutant {
        name: "unproven-is-free",
        breaks: "I5: a record that was not yet seen to change is taken over at once",
        invariant: Invariant::Exclusive,
        file: RECORD_LOCK,
        find: "            Standing::Free => None,\n            Standing::Alive(left) | Standing::Unproven(left) => Some(Acquired::Taken {",
        replace: "            Standing::Free | Standing::Unproven(_) => None,\n            Standing::Alive(left) => Some(Acquired::Taken {",
    },
    Mutant {
        name: "renew-is-upsert",
        breaks: "hazard 16: a heartbeat makes the deleted lock again",
        invariant: Invariant::Noticed,
        file: RECORD_LOCK,
        find: "                None => return Ok(Renewal::Lost { holder: None }),",
        replace: "                None => {
                    let proven_at = self.now();
                    if let Written::Applied(written) =
                        self.store.create(&grant.lock, &record).await?
                    {
                        return Ok(Renewal::Renewed(self.grant(
                            &grant.lock,
                            &grant.candidate,
                            grant.token,
                            grant.lease,
                            proven_at,
                            written,
                        )));
                    }
                }",
    },
    Mutant {
        name: "release-by-name",
        breaks: "I6: release ends whatever term the record holds",
        invariant: Invariant::ReleaseAfterWork,
        file: RECORD_LOCK,
        find: "                Some(found) if is_of_term(&found, grant) => expected = reread(found, &expected),\n                // Released before",
        replace: "                Some(found) if found.version > 0 => expected = reread(found, &expected),\n                // Released before",
    },
    Mutant {
        name: "withdraw-takes-anybody",
        breaks: "I6: a campaign that leaves takes the leader's lock along",
        invariant: Invariant::ReleaseAfterWork,
        file: RECORD_LOCK,
        find: "            if !is_of_campaign(&found, candidate) {\n                return Ok(());\n            }",
        replace: "            if found.record.holder.is_none() {\n                return Ok(());\n            }",
    },
    Mutant {
        name: "identity-adopts",
        breaks: "hazards 19, 20: a record of the same identity is taken for our own",
        invariant: Invariant::Exclusive,
        file: RECORD_LOCK,
        find: "            && holder.campaign == Some(candidate.campaign)",
        replace: "            && holder.campaign.is_some()",
    },
    Mutant {
        name: "adopt-without-proof",
        breaks: "I1, hazard 9: what a lost answer left is adopted as if it were written now",
        invariant: Invariant::Covered,
        file: RECORD_LOCK,
        find: "            // Read before the write is sent: the lease counts from here (I1).",
        replace: "            if let Some(found) = &found
                && is_of_campaign(found, candidate)
            {
                let token = FencingToken::from_counter(found.version)?;
                let now = self.now();
                return Ok(Acquired::Held(
                    self.grant(lock, candidate, token, lease, now, found.clone()),
                ));
            }",
    },
    Mutant {
        name: "old-token",
        breaks: "I6: the token is that of the record before the acquiring write",
        invariant: Invariant::Tokens,
        file: RECORD_LOCK,
        find: "let token = FencingToken::from_counter(written.version)?;",
        replace: "let token = FencingToken::from_counter(written.version - 1)?;",
    },
    Mutant {
        name: "late-answer-revives",
        breaks: "I1: a heartbeat's late answer brings a term back that was over",
        invariant: Invariant::OverForGood,
        file: MACHINE,
        find: "commands: &mut Vec<Command>) {\n        self.look_at_the_time(now, commands);\n        match",
        replace: "commands: &mut Vec<Command>) {\n        if !matches!(input, Input::Renewed { .. }) {\n            self.look_at_the_time(now, commands);\n        }\n        match",
    },
    Mutant {
        name: "valid-without-clock",
        breaks: "I1, hazard 25: is_valid is a flag",
        invariant: Invariant::Exclusive,
        file: TERM,
        find: "        !self.state.remaining().is_zero()",
        replace: "        self.state.valid_until() > Time::ZERO",
    },
    Mutant {
        name: "permit-without-clock",
        breaks: "I1, hazard 25: a permit is given by a flag",
        invariant: Invariant::Permits,
        file: TERM,
        find: "        let remaining = self.remaining();\n        if remaining.is_zero() {",
        replace: "        let remaining = if self.state.has_ended() {\n            Duration::ZERO\n        } else {\n            at_least.max(Duration::from_secs(1))\n        };\n        if remaining.is_zero() {",
    },
    Mutant {
        name: "permit-for-nothing",
        breaks: "I1: a permit ignores for how long it is asked",
        invariant: Invariant::Permits,
        file: TERM,
        find: "        if remaining < at_least {",
        replace: "        if remaining < at_least.min(Duration::ZERO) {",
    },
    Mutant {
        name: "release-on-stop",
        breaks: "hazard 22: the lock is released when the work is told to stop",
        invariant: Invariant::ReleaseAfterWork,
        file: LEADER,
        find: "                leading.cancel(cause, now + drain_limit, commands);",
        replace: "                commands.push(Command::End(cause));
                let _ = drain_limit;
                self.give_back(now, Command::Release, commands);
                return;",
    },
    Mutant {
        name: "release-at-the-end",
        breaks: "hazard 22: the lock is released when the validity ends, the work still runs",
        invariant: Invariant::ReleaseAfterWork,
        file: MACHINE,
        find: "                    commands.push(Command::Overrun);
                    self.state = State::Ended {
                        cause,
                        overrun_at: None,
                    };",
        replace: "                    self.give_back(now, Command::Release, commands);",
    },
    Mutant {
        name: "renews-after-the-work",
        breaks: "the lock is kept although the work has returned",
        invariant: Invariant::Leaderless,
        file: LEADER,
        find: "                commands.push(Command::End(Cause::Resigned));
                self.give_back(now, Command::Release, commands);
                return;",
        replace: "                commands.push(Command::End(Cause::Resigned));",
    },
    Mutant {
        name: "drain-never-ends",
        breaks: "the drain limit: work that does not stop keeps the lock for ever",
        invariant: Invariant::Drain,
        file: STATE,
        find: "            self.drain_until = Some(drain_until);",
        replace: "            self.drain_until = Some(drain_until).filter(|_| false);",
    },
    Mutant {
        name: "no-heartbeat-in-drain",
        breaks: "the term is not kept up for work that is stopping",
        invariant: Invariant::Drain,
        file: STATE,
        find: "            self.drain_until = Some(drain_until);",
        replace: "            self.drain_until = Some(drain_until.min(Time::ZERO));",
    },
    Mutant {
        name: "lost-is-ignored",
        breaks: "hazard 16: the store says that the term is over, and the leader tries again",
        invariant: Invariant::Noticed,
        file: ENGINE,
        find: "                self.feed(Input::Lost);",
        replace: "                self.feed(Input::Failed(Failure::default()));",
    },
    Mutant {
        name: "no-heartbeat-retry",
        breaks: "I3: a heartbeat that failed is not tried again",
        invariant: Invariant::Tolerance,
        file: LEADER,
        find: "leading.renew_at = Some(now + pause(retry, failure, limit.min(heartbeat)));",
        replace: "let _ = (retry, failure, limit.min(heartbeat));",
    },
    Mutant {
        name: "no-request-timeout",
        breaks: "hazard 6: a call without an answer is waited for",
        invariant: Invariant::Tolerance,
        file: CALLS,
        find: "    let limit = context.setup.policy.request_timeout();",
        replace: "    let limit = context.setup.policy.request_timeout() * 1000;",
    },
    Mutant {
        name: "no-acquire-retry",
        breaks: "recovery: a candidate whose call failed does not try again",
        invariant: Invariant::Recovery,
        file: CANDIDATE,
        find: "candidacy.acquire_at = Some(now + pause(retry, failure, limit));",
        replace: "let _ = (retry, failure, limit);",
    },
    Mutant {
        name: "hints-ignored",
        breaks: "leaderless time after a release: hints are not heeded",
        invariant: Invariant::Leaderless,
        file: CANDIDATE,
        find: "            Input::Hint(Hint::MayBeFree) => {",
        replace: "            Input::Hint(Hint::MayBeFree) if commands.len() > 9 => {",
    },
    Mutant {
        name: "hint-during-call-lost",
        breaks: "leaderless time after a release: a hint during a call is forgotten",
        invariant: Invariant::Leaderless,
        file: CANDIDATE,
        find: "                    candidacy.hinted = true;",
        replace: "                    candidacy.hinted = false;",
    },
    Mutant {
        name: "candidate-never-wakes",
        breaks: "leaderless time after a crash: only hints wake a candidate",
        invariant: Invariant::Leaderless,
        file: MACHINE,
        find: "State::Candidate(candidacy) => earlier(candidacy.acquire_at, candidacy.probe_at),",
        replace: "State::Candidate(candidacy) => earlier(None, candidacy.probe_at),",
    },
    Mutant {
        name: "hint-breaks-backoff",
        breaks: "a store's request to wait is overridden by a hint",
        invariant: Invariant::Patience,
        file: CANDIDATE,
        find: "                    let soonest = candidacy.heeds_hints_from;\n                    candidacy.acquire_at = candidacy.acquire_at.map(|at| at.min(soonest));",
        replace: "                    candidacy.call(commands);",
    },
    Mutant {
        name: "withdraw-forgotten",
        breaks: "hazard 9: a campaign that is given up leaves its traces in the store",
        invariant: Invariant::Orphans,
        file: CANDIDATE,
        find: "            Input::WorkEnded => self.give_back(now, Command::Withdraw, commands),",
        replace: "            Input::WorkEnded => {
                self.state = State::Finished;
                commands.push(Command::Finish);
            }",
    },
    Mutant {
        name: "confirmed-by-old-proof",
        breaks: "confirm: any heartbeat's answer confirms, however old its proof",
        invariant: Invariant::Confirm,
        file: QUESTIONS,
        find: "answer_all(up_to(&mut self.confirming, &proven_at), &Ok(()));",
        replace: "answer_all(mem::take(&mut self.confirming), &Ok(()));",
    },
    Mutant {
        name: "any-proof-will-do",
        breaks: "the contract of renew: a heartbeat is answered by a proof so old that the next is due at once",
        invariant: Invariant::Livelock,
        file: STATE,
        find: "let not_before = self.fresh_from.unwrap_or(now.minus(heartbeat / 2));",
        replace: "let not_before = self.fresh_from.unwrap_or(now.minus(heartbeat * 1000));",
    },
    Mutant {
        name: "spins-after-drain",
        breaks: "livelock: the heartbeat that the drain's end has made pointless stays due",
        invariant: Invariant::Livelock,
        file: STATE,
        find: "        self.renew_at = None;
        if self.drain_until.is_some_and(|until| now >= until) {",
        replace: "        if self.drain_until.is_none_or(|until| now < until) {
            self.renew_at = None;
        } else {",
    },
    Mutant {
        name: "ttl-renew-is-upsert",
        breaks: "hazard 16, in the store's script: a heartbeat makes the key again",
        invariant: Invariant::Noticed,
        file: TTL,
        find: "            None => Err(None),",
        replace: "            None => {\n                let expires = now + grant.lease;\n                self.key = Some(Key {\n                    candidate: grant.candidate.clone(),\n                    token: grant.token,\n                    lease: grant.lease,\n                    expires,\n                    owner: (link.candidate, link.life),\n                });\n                link.applied(grant.token, link.true_time(expires), None);\n                Ok((grant.lease, expires))\n            }",
    },
    Mutant {
        name: "ttl-release-by-name",
        breaks: "I6, in the store's script: release deletes any term's key",
        invariant: Invariant::ReleaseAfterWork,
        file: TTL,
        find: "            server.end(link, |key| key.is_of_term(&grant));",
        replace: "            server.end(link, |key| key.token >= grant.token);",
    },
    Mutant {
        name: "ttl-token-reuse",
        breaks: "I6, in the store's script: the counter stands still over a deletion or an expiry",
        invariant: Invariant::Tokens,
        file: TTL,
        find: "        self.counter += 1;",
        replace: "        self.counter = 1;",
    },
    Mutant {
        name: "ttl-identity-adopts",
        breaks: "hazards 19, 20, in the store's script: the same identity adopts a term",
        invariant: Invariant::Exclusive,
        file: TTL,
        find: "            if !key.is_of(candidate) {",
        replace: "            if key.candidate.identity != candidate.identity {",
    },
    Mutant {
        name: "ttl-adopts-without-extending",
        breaks: "I1, in the store's script: adopted with a new proof but the old lifetime",
        invariant: Invariant::Covered,
        file: TTL,
        find: "            key.expires = expires;\n            key.candidate = candidate.clone();",
        replace: "            key.candidate = candidate.clone();",
    },
    Mutant {
        name: "session-proof-from-reply",
        breaks: "I1, in a session's client: a keepalive proves the moment of its answer",
        invariant: Invariant::Covered,
        file: SESSION,
        find: "session.proven_at = session.proven_at.max(sent);",
        replace: "session.proven_at = session.proven_at.max(self.clock.now());",
    },
    Mutant {
        name: "session-proves-any-term",
        breaks: "I6, in a session's client: a session made anew proves the old term",
        invariant: Invariant::Covered,
        file: SESSION,
        find: "        if token.is_some() && place.token != token {",
        replace: "        if place.owner.1 == u32::MAX && place.token != token {",
    },
    Mutant {
        name: "half-a-lock",
        breaks: "Both: the first store's lock is enough to lead",
        invariant: Invariant::Exclusive,
        file: BOTH,
        find: "            not_held => {\n                self.give_back(&first).await;\n                not_held\n            }",
        replace: "            _ => Ok(Acquired::Held(grant_of(first.clone(), first))),",
    },
    Mutant {
        name: "half-a-renewal",
        breaks: "Both: only the first store hears of a renewal",
        invariant: Invariant::Covered,
        file: BOTH,
        find: "            self.second.renew(&grants.second, not_before),",
        replace: "            future::ready({\n                let mut second = grants.second.clone();\n                second.proven_at = not_before;\n                Ok::<_, Error>(Renewal::Renewed(second))\n            }),",
    },
    Mutant {
        name: "half-a-loss",
        breaks: "Both: a term that is over in the second store goes on",
        invariant: Invariant::Exclusive,
        file: BOTH,
        find: "(Ok(lost @ Renewal::Lost { .. }), _) | (_, Ok(lost @ Renewal::Lost { .. })) => {",
        replace: "(Ok(Renewal::Renewed(first)), Ok(Renewal::Lost { .. })) => {\n                let second = first.clone();\n                Ok(Renewal::Renewed(grant_of(first, second)))\n            }\n            (Ok(lost @ Renewal::Lost { .. }), _) | (_, Ok(lost @ Renewal::Lost { .. })) => {",
    },
    Mutant {
        name: "half-a-token",
        breaks: "I6 in Both: the smaller token",
        invariant: Invariant::Tokens,
        file: BOTH,
        find: "first.token.max(second.token);",
        replace: "first.token.min(second.token);",
    },
    Mutant {
        name: "term-comes-back",
        breaks: "I1: a heartbeat's answer moves the end of a term that its owner has just given back",
        invariant: Invariant::OverForGood,
        file: TERM,
        find: "        let moved = moved_unless_over(&self.valid_until, span.valid_until)",
        replace: "        self.valid_until\n            .store(span.valid_until.as_nanos(), Ordering::Release);\n        let moved = true",
    },
    Mutant {
        name: "stop-is-taken-back",
        breaks: "work that was told to stop is told that it need not",
        invariant: Invariant::OverForGood,
        file: TERM,
        find: "            && moved_unless_over(&self.cancel_at, span.cancel_at);",
        replace: "            && {\n                self.cancel_at\n                    .store(span.cancel_at.as_nanos(), Ordering::Release);\n                true\n            };",
    },
    Mutant {
        name: "release-never-retried",
        breaks: "a release that was refused once is not tried again",
        invariant: Invariant::Leaderless,
        file: GIVING_BACK,
        find: "                *retry_at = Some(now + pause(retry, failure, limit.min(heartbeat)));",
        replace: "                let _ = (retry, failure, limit.min(heartbeat), retry_at);",
    },
    Mutant {
        name: "both-releases-in-the-wrong-order",
        breaks: "Both: the first lock is free while the second is still held",
        invariant: Invariant::Order,
        file: BOTH,
        find: "        let second = self.second.release(&grants.second).await;\n        let first = self.first.release(&grants.first).await;",
        replace: "        let first = self.first.release(&grants.first).await;\n        let second = self.second.release(&grants.second).await;",
    },
    Mutant {
        name: "both-withdraws-from-the-second-only",
        breaks: "Both: a campaign that leaves stays behind in the first store",
        invariant: Invariant::Orphans,
        file: BOTH,
        find: "        let first = self.first.withdraw(lock, candidate).await;",
        replace: "        let first = Ok::<(), Error>(());",
    },
    Mutant {
        name: "both-withdraws-from-the-first-only",
        breaks: "Both: a campaign that leaves stays behind in the second store",
        invariant: Invariant::Orphans,
        file: BOTH,
        find: "        let second = self.second.withdraw(lock, candidate).await;",
        replace: "        let second = Ok::<(), Error>(());",
    },
    Mutant {
        name: "no-overrun-after-a-loss",
        breaks: "work that goes on after its term was lost is not reported",
        invariant: Invariant::Reported,
        file: MACHINE,
        find: "                *overrun_at = None;\n                commands.push(Command::Overrun);",
        replace: "                *overrun_at = None;",
    },
    Mutant {
        name: "no-overrun-at-the-end",
        breaks: "work that goes on after the validity has ended is not reported",
        invariant: Invariant::Reported,
        file: MACHINE,
        find: "                    commands.push(Command::End(cause));\n                    commands.push(Command::Overrun);",
        replace: "                    commands.push(Command::End(cause));",
    },
    Mutant {
        name: "loss-ignored",
        breaks: "the engine does not listen when the backend tells of a loss",
        invariant: Invariant::Noticed,
        file: ENGINE,
        find: "                self.loss = self.context.setup.backend.loss(&grant);",
        replace: "                self.loss = None;",
    },
    Mutant {
        name: "every-error-is-permanent",
        breaks: "a store that is down for a moment ends a campaign",
        invariant: Invariant::GivesUp,
        file: ENGINE,
        find: "    !error.is_retryable() && error.kind() != ErrorKind::Corrupted",
        replace: "    !error.is_retryable() || error.kind() != ErrorKind::Corrupted",
    },
    Mutant {
        name: "no-error-is-permanent",
        breaks: "a missing permission is not told, and tried for ever",
        invariant: Invariant::GivesUp,
        file: CANDIDATE,
        find: "                if failure.permanent && !self.answered {",
        replace: "                if failure.permanent && !self.answered && self.wakeup == Wakeup::Poll && now < Time::ZERO {",
    },
    Mutant {
        name: "answered-gives-up",
        breaks: "a permission that is missing for a moment ends a campaign that was well set up",
        invariant: Invariant::GivesUp,
        file: CANDIDATE,
        find: "                if failure.permanent && !self.answered {",
        replace: "                if failure.permanent {",
    },
    Mutant {
        name: "published-value-lost",
        breaks: "a value published while a heartbeat was under way is forgotten",
        invariant: Invariant::Published,
        file: ENGINE,
        find: "                grant.candidate.value.clone_from(&self.candidate.value);\n                self.grant = Some(grant);",
        replace: "                self.grant = Some(grant);\n                let _ = &mut self.candidate;",
    },
    Mutant {
        name: "publish-answered-too-early",
        breaks: "publish says yes by the answer to a heartbeat that left without the value",
        invariant: Invariant::Published,
        file: QUESTIONS,
        find: "answer_all(up_to(&mut self.publishing, &written), &Ok(()));",
        replace: "answer_all(up_to(&mut self.publishing, &written.max(u64::MAX)), &Ok(()));",
    },
    Mutant {
        name: "publish-answered-by-the-next-call",
        breaks: "publish says yes when the heartbeat with the value has left, before its answer",
        invariant: Invariant::Published,
        file: ENGINE,
        find: "                let written = self.questions.written_by_call();\n                self.feed(Input::Renewed { proven_at, lease });",
        replace: "                self.feed(Input::Renewed { proven_at, lease });\n                let written = self.questions.written_by_call();",
    },
    Mutant {
        name: "no-margin",
        breaks: "I2: nothing is left between the validity and the lease for acting after a look at the clock",
        invariant: Invariant::Covered,
        file: POLICY,
        find: "        let margin = (lease / 200).min(Duration::from_millis(100));",
        replace: "        let margin = (lease / 200).min(Duration::ZERO);",
    },
    Mutant {
        name: "told-where-versions-repeat",
        breaks: "hazard 16: a record that was told of long ago is written upon where versions repeat",
        invariant: Invariant::Exclusive,
        file: RECORD_LOCK,
        find: "                let told = told && self.versions_are_unique();",
        replace: "                let told = told && (self.versions_are_unique() || told);",
    },
    Mutant {
        name: "both-with-the-longer-lease",
        breaks: "I1 in Both: the longer of two leases",
        invariant: Invariant::Covered,
        file: BOTH,
        find: "    let lease = first.lease.min(second.lease);",
        replace: "    let lease = first.lease.max(second.lease);",
    },
    Mutant {
        name: "candidate-pause-uncapped",
        breaks: "hazard 33: a candidate waits for as long as the store asks it to",
        invariant: Invariant::Leaderless,
        file: CANDIDATE,
        find: "                candidacy.acquire_at = Some(now + pause(retry, failure, limit));",
        replace: "                candidacy.acquire_at = Some(now + pause(retry, failure, limit * 1000 + heartbeat * 1000));",
    },
    Mutant {
        name: "candidate-pause-past-the-lease",
        breaks: "hazard 33: a candidate that was asked to wait sleeps over the end of the holder's lease",
        invariant: Invariant::Leaderless,
        file: CANDIDATE,
        find: "                let limit = free_in.map_or(heartbeat, |free_in| free_in.min(heartbeat));",
        replace: "                let limit = free_in.map_or(heartbeat, |_| heartbeat);",
    },
    Mutant {
        name: "candidate-pause-ignored",
        breaks: "a candidate does not wait although the store asks it to",
        invariant: Invariant::Patience,
        file: CANDIDATE,
        find: "                candidacy.acquire_at = Some(now + pause(retry, failure, limit));",
        replace: "                candidacy.acquire_at = Some(now + pause(retry, failure, limit.min(Duration::ZERO)));",
    },
    Mutant {
        name: "leader-pause-a-heartbeat",
        breaks: "hazard 33: a leader that was asked to wait sleeps over the end of its term",
        invariant: Invariant::Tolerance,
        file: LEADER,
        find: "                leading.renew_at = Some(now + pause(retry, failure, limit.min(heartbeat)));",
        replace: "                leading.renew_at = Some(now + pause(retry, failure, limit.max(heartbeat)));",
    },
    Mutant {
        name: "observer-pause-uncapped",
        breaks: "hazard 33: an observer waits for as long as the store asks it to",
        invariant: Invariant::Observer,
        file: OBSERVER,
        find: "asked.min(policy.heartbeat())",
        replace: "asked.max(policy.heartbeat().min(asked))",
    },
    Mutant {
        name: "hint-in-a-pause-ignored",
        breaks: "a lock that is given back is not taken because the store had asked for a pause before",
        invariant: Invariant::Leaderless,
        file: CANDIDATE,
        find: "                    candidacy.acquire_at = candidacy.acquire_at.map(|at| at.min(soonest));",
        replace: "                    let _ = soonest;",
    },
    Mutant {
        name: "hint-after-a-pause-ignored",
        breaks: "hints are not heeded any more once a call has failed",
        invariant: Invariant::Leaderless,
        file: CANDIDATE,
        find: "candidacy.heeds_hints_from = now + retry;",
        replace: "candidacy.heeds_hints_from = now + retry * 1000;",
    },
    Mutant {
        name: "held-for-delays-the-retry",
        breaks: "a hint that the lock is held puts off the attempt after a failure",
        invariant: Invariant::Leaderless,
        file: CANDIDATE,
        find: "                if candidacy.acquire_at.is_some() && !candidacy.failed {",
        replace: "                if candidacy.acquire_at.is_some() {",
    },
    Mutant {
        name: "shorter-grant-ignored",
        breaks: "a renewal that grants a shorter lease is not heeded",
        invariant: Invariant::Exclusive,
        file: STATE,
        find: "            cmp::Ordering::Greater => true,",
        replace: "            cmp::Ordering::Greater => span.valid_until > self.span.valid_until,",
    },
    Mutant {
        name: "probe-not-asked-while-waiting",
        breaks: "a candidate that waits is not asked whether it is well",
        invariant: Invariant::Health,
        file: MACHINE,
        find: "            State::Candidate(candidacy) => earlier(candidacy.acquire_at, candidacy.probe_at),",
        replace: "            State::Candidate(candidacy) => earlier(candidacy.acquire_at, None),",
    },
    Mutant {
        name: "probe-not-asked-at-the-grant",
        breaks: "a candidate that has become unwell begins a term",
        invariant: Invariant::Health,
        file: CANDIDATE,
        find: "            Input::Held { proven_at, lease } if self.probed => {",
        replace: "            Input::Held { proven_at, lease } if self.probed && now < Time::ZERO => {",
    },
    Mutant {
        name: "unwell-keeps-its-place",
        breaks: "a candidate that is unwell stays in the queue, and others wait behind it",
        invariant: Invariant::Health,
        file: CANDIDATE,
        find: "            _ => candidacy.entered.then_some(Command::Withdraw),",
        replace: "            _ => candidacy.entered.then_some(Command::Withdraw).filter(|_| false),",
    },
    Mutant {
        name: "version-compared-alone",
        breaks: "I5: a record that was deleted and written again is taken for an unchanged one",
        invariant: Invariant::Exclusive,
        file: OBSERVATION,
        find: "        if seen.mark != mark {",
        replace: "        if seen.mark.version != mark.version {",
    },
    Mutant {
        name: "gone-is-alive",
        breaks: "a holder that is gone for certain is waited for",
        invariant: Invariant::Leaderless,
        file: OBSERVATION,
        find: "            Liveness::Gone => Standing::Free,",
        replace: "            Liveness::Gone => alive((seen_at + lease).since(now), true),",
    },
    Mutant {
        name: "until-from-sight",
        breaks: "a lease that the store knows the end of starts again with each look",
        invariant: Invariant::Leaderless,
        file: OBSERVATION,
        find: "            Liveness::Until(end) => alive(end.since(now).min(lease), true),",
        replace: "            Liveness::Until(_) => alive(lease, true),",
    },
    Mutant {
        name: "until-too-early",
        breaks: "I5: a lease that the store knows the end of is over before that",
        invariant: Invariant::Exclusive,
        file: OBSERVATION,
        find: "            Liveness::Until(end) => alive(end.since(now).min(lease), true),",
        replace: "            Liveness::Until(end) => alive(end.since(now + lease / 10), true),",
    },
    Mutant {
        name: "foreign-write-is-a-loss",
        breaks: "hazard 34: another program's write to the record ends the term",
        invariant: Invariant::Tolerance,
        file: RECORD_LOCK,
        find: "                Some(found) if is_of_term(&found, grant) => expected = reread(found, &expected),\n                Some(found) => {",
        replace: "                Some(found) if is_of_term(&found, grant) && found.version < expected.version => {\n                    expected = reread(found, &expected);\n                }\n                Some(found) => {",
    },
    Mutant {
        name: "foreign-write-keeps-the-lock",
        breaks: "hazard 34: after another program's write the lock is not given back",
        invariant: Invariant::Leaderless,
        file: RECORD_LOCK,
        find: "                Some(found) if is_of_term(&found, grant) => expected = reread(found, &expected),\n                // Released before",
        replace: "                Some(found) if is_of_term(&found, grant) && found.version < expected.version => {\n                    expected = reread(found, &expected);\n                }\n                // Released before",
    },
    Mutant {
        name: "observations-forget-the-lock",
        breaks: "I5: the records of all locks are taken for one",
        invariant: Invariant::Leaderless,
        file: OBSERVATION,
        find: "        let mut all = self.lock();\n        let Some(seen)",
        replace: "        let mut all = self.lock();\n        let one = LockName::new(\"one\");\n        let lock = one.as_ref().unwrap_or(lock);\n        let Some(seen)",
    },
    Mutant {
        name: "generation-not-raised",
        breaks: "tokens in a new store start below the old one's",
        invariant: Invariant::Tokens,
        file: GENERATION,
        find: "        let token = grant.token.in_generation(self.generation);",
        replace: "        let token = grant.token;",
    },
    Mutant {
        name: "counter-wraps",
        breaks: "I6: a counter past its end begins again",
        invariant: Invariant::Tokens,
        file: TOKEN,
        find: "        if counter > COUNTER_MASK {",
        replace: "        if counter > u64::MAX - COUNTER_MASK {",
    },
    Mutant {
        name: "campaign-numbers-repeat",
        breaks: "hazard 32: two candidates draw the same campaign numbers",
        invariant: Invariant::Exclusive,
        file: CONTEXT,
        find: "                Ok(rng.u64(..))",
        replace: "                Ok(rng.u64(..) % 2)",
    },
    Mutant {
        name: "both-forgets-its-place-in-a-queue",
        breaks: "Both waits behind its own place in the second store's queue",
        invariant: Invariant::Leaderless,
        file: BOTH,
        find: "        if matches!(acquired, Acquired::Taken { .. }) && !queues {",
        replace: "        if matches!(acquired, Acquired::Taken { .. }) && (queues || !queues) {",
    },
    Mutant {
        name: "session-dead-waiter-stays",
        breaks: "hazard 45, in the store: a waiter that has died keeps its place in the queue",
        invariant: Invariant::Leaderless,
        file: SESSION,
        find: "        self.queue.retain(|place| now < place.expires);",
        replace: "        self.queue\n            .retain(|place| now < place.expires || place.token.is_none());",
    },
    Mutant {
        name: "session-shows-waiters",
        breaks: "a waiter is shown as the leader before it has confirmed its term",
        invariant: Invariant::Observer,
        file: SESSION,
        find: "                if place.token.is_some() {",
        replace: "                if place.token.is_some() || place.owner.1 < u32::MAX {",
    },
];

/// What some mutants change beside that: the mutant, the file, what is replaced and by what.
/// Where two places guard against one mistake, a bug in one of them alone shows nothing.
pub const ALSO: &[(&str, &str, &str, &str)] = &[
    (
        "valid-without-clock",
        TERM,
        "        while self.is_valid() {",
        "        while !self.remaining().is_zero() {",
    ),
    (
        "late-answer-revives",
        TERM,
        "            if !remaining.is_zero() || end.as_nanos() == OVER {",
        "            if !remaining.is_zero() || end.as_nanos() >= OVER {",
    ),
];

impl Mutant {
    /// All that it changes: the file, what is replaced and by what.
    pub fn edits(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        let also = ALSO.iter().filter(|(name, ..)| *name == self.name);
        std::iter::once((self.file, self.find, self.replace))
            .chain(also.map(|(_, file, find, replace)| (*file, *find, *replace)))
    }
}
