//! Seeded bugs: each replaces a piece of the source, and the simulator must notice.
//!
//! The bugs are replacements of source text, so production code has no hooks for them. A text
//! that is not found exactly once is an error: when the code changes its mutants are looked at
//! again, they cannot rot.

/// A seeded bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// What it breaks: an invariant (I1 to I6), a hazard's number, or a promise of the contract.
    pub breaks: &'static str,
    /// The file, from the workspace's root.
    pub file: &'static str,
    /// What is replaced; found exactly once.
    pub find: &'static str,
    /// By what.
    pub replace: &'static str,
}

const MACHINE: &str = "crates/tenure-core/src/machine.rs";
const ENGINE: &str = "crates/tenure-core/src/engine.rs";
const TERM: &str = "crates/tenure-core/src/term.rs";
const POLICY: &str = "crates/tenure-core/src/policy.rs";
const RECORD_LOCK: &str = "crates/tenure-core/src/record/lock.rs";
const OBSERVATION: &str = "crates/tenure-core/src/record/observation.rs";
const BOTH: &str = "crates/tenure-core/src/both.rs";
const TTL: &str = "tests/src/sim/ttl.rs";
const SESSION: &str = "tests/src/sim/session.rs";

/// All seeded bugs.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "deadline-from-reply",
        breaks: "I1, hazard 2: the lease counts from the answer, not from the request",
        file: RECORD_LOCK,
        find: "Grant::new(lock.clone(), candidate.clone(), token, lease, proven_at).with_state(written)",
        replace: "Grant::new(lock.clone(), candidate.clone(), token, lease, proven_at.max(self.now())).with_state(written)",
    },
    Mutant {
        name: "deadline-from-handling",
        breaks: "I1: a late answer to acquire counts from when it is handled",
        file: MACHINE,
        find: "let Some(span) = self.span(proven_at, lease) else {",
        replace: "let Some(span) = self.span(proven_at.max(now), lease) else {",
    },
    Mutant {
        name: "validity-is-lease",
        breaks: "I2: neither drift nor margin",
        file: POLICY,
        find: "        shrunk.saturating_sub(margin)",
        replace: "        shrunk.saturating_sub(margin).max(lease)",
    },
    Mutant {
        name: "no-drift",
        breaks: "I2: the margin alone, without the clocks' drift",
        file: POLICY,
        find: "lease.as_nanos() * (1_000_000 - ppm) / (1_000_000 + ppm)",
        replace: "lease.as_nanos() * (1_000_000 + ppm) / (1_000_000 + ppm)",
    },
    Mutant {
        name: "told-at-the-end",
        breaks: "I4: the work is told when the validity ends, without its grace",
        file: MACHINE,
        find: "let cancel_at = valid_until.minus(self.policy.stop_grace());",
        replace: "let cancel_at = valid_until;",
    },
    Mutant {
        name: "grace-twice",
        breaks: "I3: the stop grace is subtracted twice, so no heartbeat comes in time",
        file: MACHINE,
        find: "let cancel_at = valid_until.minus(self.policy.stop_grace());",
        replace: "let cancel_at = valid_until.minus(self.policy.stop_grace() * 2);",
    },
    Mutant {
        name: "first-sight",
        breaks: "I5: a lease runs from the first sight of a record although it has changed since",
        file: OBSERVATION,
        find: "        if seen.version != version {\n            *seen = Seen {\n                version,\n                at: now,",
        replace: "        if seen.version != version {\n            *seen = Seen {\n                version,\n                at: seen.at,",
    },
    Mutant {
        name: "own-duration",
        breaks: "hazard 26: the observer's idea of the lease, not the record's",
        file: OBSERVATION,
        find: "let lease = found.record.lease.min(MAX_LEASE);",
        replace: "let lease = found.record.lease.min(MAX_LEASE).min(Duration::from_secs(5));",
    },
    Mutant {
        name: "unproven-is-free",
        breaks: "I5: a record that was not yet seen to change is taken over at once",
        file: RECORD_LOCK,
        find: "            Standing::Free => None,\n            Standing::Alive(left) | Standing::Unproven(left) => Some(Acquired::Taken {",
        replace: "            Standing::Free | Standing::Unproven(_) => None,\n            Standing::Alive(left) => Some(Acquired::Taken {",
    },
    Mutant {
        name: "renew-is-upsert",
        breaks: "hazard 16: a heartbeat makes the deleted lock again",
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
        file: RECORD_LOCK,
        find: "                Some(found) if is_of_term(&found, grant) => expected = reread(found, &expected),\n                // Released before",
        replace: "                Some(found) if found.version > 0 => expected = reread(found, &expected),\n                // Released before",
    },
    Mutant {
        name: "withdraw-takes-anybody",
        breaks: "I6: a campaign that leaves takes the leader's lock along",
        file: RECORD_LOCK,
        find: "            if !is_of_campaign(&found, candidate) {\n                return Ok(());\n            }",
        replace: "            if found.record.holder.is_none() {\n                return Ok(());\n            }",
    },
    Mutant {
        name: "identity-adopts",
        breaks: "hazards 19, 20: a record of the same identity is taken for our own",
        file: RECORD_LOCK,
        find: "            && holder.campaign == Some(candidate.campaign)",
        replace: "            && holder.campaign.is_some()",
    },
    Mutant {
        name: "adopt-without-proof",
        breaks: "I1, hazard 9: what a lost answer left is adopted as if it were written now",
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
        file: RECORD_LOCK,
        find: "let token = FencingToken::from_counter(written.version)?;",
        replace: "let token = FencingToken::from_counter(written.version - 1)?;",
    },
    Mutant {
        name: "late-answer-revives",
        breaks: "I1: a heartbeat's late answer brings a term back that was over",
        file: MACHINE,
        find: "        self.look_at_the_time(now, commands);",
        replace: "        if !matches!(input, Input::Renewed { .. }) {\n            self.look_at_the_time(now, commands);\n        }",
    },
    Mutant {
        name: "valid-without-clock",
        breaks: "I1, hazard 25: is_valid is a flag",
        file: TERM,
        find: "        self.state.clock.now() < self.state.valid_until()",
        replace: "        self.state.valid_until() > Time::ZERO",
    },
    Mutant {
        name: "permit-for-nothing",
        breaks: "I1: a permit ignores for how long it is asked",
        file: TERM,
        find: "        if remaining < at_least {",
        replace: "        if remaining < at_least.min(Duration::ZERO) {",
    },
    Mutant {
        name: "release-on-stop",
        breaks: "hazard 22: the lock is released when the work is told to stop",
        file: MACHINE,
        find: "                leading.cancel(cause, now + drain_limit, commands);",
        replace: "                commands.push(Command::End(cause));
                let _ = drain_limit;
                self.give_back(now, Command::Release, commands);
                return;",
    },
    Mutant {
        name: "release-at-the-end",
        breaks: "hazard 22: the lock is released when the validity ends, the work still runs",
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
        file: MACHINE,
        find: "                commands.push(Command::End(Cause::Resigned));
                self.give_back(now, Command::Release, commands);
                return;",
        replace: "                commands.push(Command::End(Cause::Resigned));",
    },
    Mutant {
        name: "drain-never-ends",
        breaks: "the drain limit: work that does not stop keeps the lock for ever",
        file: MACHINE,
        find: "            self.drain_until = Some(drain_until);",
        replace: "            self.drain_until = Some(drain_until).filter(|_| false);",
    },
    Mutant {
        name: "no-heartbeat-in-drain",
        breaks: "the term is not kept up for work that is stopping",
        file: MACHINE,
        find: "            self.drain_until = Some(drain_until);",
        replace: "            self.drain_until = Some(drain_until.min(Time::ZERO));",
    },
    Mutant {
        name: "lost-is-ignored",
        breaks: "hazard 16: the store says that the term is over, and the leader tries again",
        file: ENGINE,
        find: "                self.feed(Input::Lost);",
        replace: "                self.feed(Input::Failed(Failure::default()));",
    },
    Mutant {
        name: "no-heartbeat-retry",
        breaks: "I3: a heartbeat that failed is not tried again",
        file: MACHINE,
        find: "            Input::Failed(_) => leading.renew_at = Some(now + retry),",
        replace: "            Input::Failed(_) => leading.renew_at = leading.renew_at.map(|at| at + retry),",
    },
    Mutant {
        name: "no-request-timeout",
        breaks: "hazard 6: a call without an answer is waited for",
        file: ENGINE,
        find: "    let limit = election.policy.request_timeout();",
        replace: "    let limit = election.policy.request_timeout() * 1000;",
    },
    Mutant {
        name: "no-acquire-retry",
        breaks: "recovery: a candidate whose call failed does not try again",
        file: MACHINE,
        find: "                candidacy.hinted = false;\n                candidacy.acquire_at = Some(now + retry);",
        replace: "                candidacy.hinted = false;\n                candidacy.acquire_at = candidacy.acquire_at.map(|at| at + retry);",
    },
    Mutant {
        name: "hints-ignored",
        breaks: "leaderless time after a release: hints are not heeded",
        file: MACHINE,
        find: "                } else if candidacy.heeds_hints {\n                    candidacy.call(commands);",
        replace: "                } else if candidacy.heeds_hints && commands.len() > 9 {\n                    candidacy.call(commands);",
    },
    Mutant {
        name: "hint-during-call-lost",
        breaks: "leaderless time after a release: a hint during a call is forgotten",
        file: MACHINE,
        find: "                    candidacy.hinted = true;",
        replace: "                    candidacy.hinted = false;",
    },
    Mutant {
        name: "candidate-never-wakes",
        breaks: "leaderless time after a crash: only hints wake a candidate",
        file: MACHINE,
        find: "            State::Candidate(candidacy) => candidacy.acquire_at,",
        replace: "            State::Candidate(candidacy) => candidacy.acquire_at.filter(|_| false),",
    },
    Mutant {
        name: "hint-breaks-backoff",
        breaks: "a store's request to wait is overridden by a hint",
        file: MACHINE,
        find: "                } else if candidacy.heeds_hints {\n                    candidacy.call(commands);",
        replace: "                } else {\n                    candidacy.call(commands);",
    },
    Mutant {
        name: "withdraw-forgotten",
        breaks: "hazard 9: a campaign that is given up leaves its traces in the store",
        file: MACHINE,
        find: "            Input::WorkEnded => self.give_back(now, Command::Withdraw, commands),",
        replace: "            Input::WorkEnded => {
                self.state = State::Finished;
                commands.push(Command::Finish);
            }",
    },
    Mutant {
        name: "confirmed-by-old-proof",
        breaks: "confirm: any heartbeat's answer confirms, however old its proof",
        file: ENGINE,
        find: "                    .partition(|(asked, _)| *asked <= proven_at);",
        replace: "                    .partition(|(asked, _)| *asked >= Time::ZERO);",
    },
    Mutant {
        name: "any-proof-will-do",
        breaks: "the contract of renew: a proof may be of any age",
        file: MACHINE,
        find: "        let not_before = self.fresh_from.unwrap_or(now.minus(heartbeat / 2));",
        replace: "        let not_before = now.minus(heartbeat * 1000);",
    },
    Mutant {
        name: "spins-after-drain",
        breaks: "livelock: the heartbeat that the drain's end has made pointless stays due",
        file: MACHINE,
        find: "        self.renew_at = None;
        if self.drain_until.is_some_and(|until| now >= until) {",
        replace: "        if self.drain_until.is_none_or(|until| now < until) {
            self.renew_at = None;
        } else {",
    },
    Mutant {
        name: "ttl-renew-is-upsert",
        breaks: "hazard 16, in the store's script: a heartbeat makes the key again",
        file: TTL,
        find: "            None => Err(None),",
        replace: "            None => {
                self.key = Some(Key {
                    candidate: grant.candidate.clone(),
                    token: grant.token,
                    expires: now + grant.lease,
                    owner: (link.candidate, link.life),
                });
                link.world.applied(grant.token.as_u64(), link.true_time(now + grant.lease));
                Ok(())
            }",
    },
    Mutant {
        name: "ttl-release-by-name",
        breaks: "I6, in the store's script: release deletes any term's key",
        file: TTL,
        find: "server.end(link, |key| key.token == token);",
        replace: "server.end(link, |key| key.token >= token);",
    },
    Mutant {
        name: "ttl-token-reuse",
        breaks: "I6, in the store's script: the counter stands still over a deletion or an expiry",
        file: TTL,
        find: "        self.counter += 1;",
        replace: "        self.counter = 1;",
    },
    Mutant {
        name: "ttl-identity-adopts",
        breaks: "hazards 19, 20, in the store's script: the same identity adopts a term",
        file: TTL,
        find: "if key.candidate.campaign != candidate.campaign {",
        replace: "if key.candidate.identity != candidate.identity {",
    },
    Mutant {
        name: "ttl-adopts-without-extending",
        breaks: "I1, in the store's script: adopted with a new proof but the old lifetime",
        file: TTL,
        find: "            key.expires = expires;",
        replace: "            key.expires = key.expires.max(now);",
    },
    Mutant {
        name: "session-proof-from-reply",
        breaks: "I1, in a session's client: a keepalive proves the moment of its answer",
        file: SESSION,
        find: "session.proven_at = session.proven_at.max(sent);",
        replace: "session.proven_at = session.proven_at.max(self.clock.now());",
    },
    Mutant {
        name: "session-proves-any-term",
        breaks: "I6, in a session's client: a session made anew proves the old term",
        file: SESSION,
        find: "        if token.is_some() && place.token != token {",
        replace: "        if place.owner.1 == u32::MAX && place.token != token {",
    },
    Mutant {
        name: "half-a-lock",
        breaks: "Both: the first store's lock is enough to lead",
        file: BOTH,
        find: "            not_held => {\n                self.give_back(&first).await;\n                not_held\n            }",
        replace: "            _ => Ok(Acquired::Held(grant_of(first.clone(), first))),",
    },
    Mutant {
        name: "half-a-renewal",
        breaks: "Both: only the first store hears of a renewal",
        file: BOTH,
        find: "            self.second.renew(&grants.second, not_before),",
        replace: "            future::ready({\n                let mut second = grants.second.clone();\n                second.proven_at = not_before;\n                Ok::<_, Error>(Renewal::Renewed(second))\n            }),",
    },
    Mutant {
        name: "half-a-loss",
        breaks: "Both: a term that is over in the second store goes on",
        file: BOTH,
        find: "(Ok(lost @ Renewal::Lost { .. }), _) | (_, Ok(lost @ Renewal::Lost { .. })) => {",
        replace: "(Ok(Renewal::Renewed(first)), Ok(Renewal::Lost { .. })) => {\n                let second = first.clone();\n                Ok(Renewal::Renewed(grant_of(first, second)))\n            }\n            (Ok(lost @ Renewal::Lost { .. }), _) | (_, Ok(lost @ Renewal::Lost { .. })) => {",
    },
    Mutant {
        name: "half-a-token",
        breaks: "I6 in Both: the smaller token",
        file: BOTH,
        find: "first.token.max(second.token);",
        replace: "first.token.min(second.token);",
    },
];
