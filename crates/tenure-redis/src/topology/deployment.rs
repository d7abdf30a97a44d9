//! Whether the servers that a URL leads to belong together.
//!
//! A URL that names members of two clusters, sentinels of two masters, or a host with the addresses
//! of two servers, elects a leader at each. Which one a process sees depends on who answers first.
//! So all servers of the URL are compared before the first call and every half minute, and each
//! server that a connection is made to is compared with those that are known.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tenure_core::{Check, ErrorKind};
use tokio::sync::watch;

use super::slots::SLOTS;
use crate::errors::StoreError;
use crate::net::hold;

/// How often all servers of the URL are compared, and when again if some have not answered.
pub(crate) const SURVEY_EVERY: Duration = Duration::from_secs(30);
pub(crate) const SURVEY_AGAIN: Duration = Duration::from_secs(5);

/// A member that no server has named for so long does not identify the deployment any more. All members
/// may be replaced one after the other, so long as the others are still named meanwhile.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What one server says about the deployment that it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The server's address.
    pub(crate) by: String,
    /// What no other deployment has: ids of its servers, or addresses that it leads clients to.
    pub(crate) members: HashSet<String>,
    pub(crate) shares: Vec<Share>,
}

/// Where locks are kept.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub(crate) first: u16,
    pub(crate) last: u16,
    /// As an operator knows it.
    pub(crate) keeper: String,
}

impl Share {
    /// All locks, at one server.
    pub(crate) fn all(keeper: String) -> Self {
        Self {
            first: 0,
            last: SLOTS - 1,
            keeper,
        }
    }
}

/// Two servers that keep the same locks, and have nothing in common.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Strangers([(String, String); 2]);

impl Strangers {
    /// Of the two, if they would both keep a lock, at servers that have nothing in common.
    fn among(one: &View, other: &View) -> Option<Self> {
        let unknown = one.members.is_empty() || other.members.is_empty();
        if unknown || !one.members.is_disjoint(&other.members) {
            return None;
        }
        let pairs = one.shares.iter().flat_map(|share| {
            let theirs = other.shares.iter();
            theirs.map(move |their| (share, their))
        });
        let both =
            |(one, other): &(&Share, &Share)| one.first <= other.last && other.first <= one.last;
        let (mine, theirs) = pairs.into_iter().find(both)?;
        Some(Self([
            (one.by.clone(), mine.keeper.clone()),
            (other.by.clone(), theirs.keeper.clone()),
        ]))
    }

    /// Whether these keepers were strangers before too. What was restarted between two looks has
    /// another id, and is no stranger.
    pub(crate) fn are_those(&self, before: &Self) -> bool {
        let keepers = |strangers: &Self| -> HashSet<String> {
            strangers
                .0
                .iter()
                .map(|(_, keeper)| keeper.clone())
                .collect()
        };
        keepers(self) == keepers(before)
    }

    fn error(&self) -> StoreError {
        let [(one, mine), (other, theirs)] = &self.0;
        StoreError::new(
            ErrorKind::Misconfigured,
            format!(
                "the servers that the URL leads to belong to two deployments, so two leaders could \
                 be elected: {one} keeps locks at {mine}, {other} at {theirs}, and they have no \
                 server in common; name the servers of one deployment alone, or let the host's name \
                 lead to one. If the deployment was rebuilt on purpose, restart this process"
            ),
        )
    }
}

/// The first strangers among what servers have said at about the same time. Two that know a third
/// belong together, since one of them may have been cut off for a while.
pub(crate) fn strangers(views: &[View]) -> Option<Strangers> {
    let mut groups: Vec<(HashSet<&String>, Vec<&View>)> = Vec::new();
    for view in views {
        let mut joined = (view.members.iter().collect::<HashSet<_>>(), vec![view]);
        let (related, others) = groups
            .into_iter()
            .partition(|(members, _)| !members.is_disjoint(&joined.0));
        groups = others;
        let related: Vec<(HashSet<&String>, Vec<&View>)> = related;
        for (members, views) in related {
            joined.0.extend(members);
            joined.1.extend(views);
        }
        groups.push(joined);
    }
    let mut rest = groups.as_slice();
    while let Some(((_, group), others)) = rest.split_first() {
        rest = others;
        let strange = others
            .iter()
            .flat_map(|(_, views)| views)
            .find_map(|other| group.iter().find_map(|view| Strangers::among(view, other)));
        if strange.is_some() {
            return strange;
        }
    }
    None
}

/// The deployment that a backend has met.
#[derive(Debug, Default)]
pub(crate) struct Deployment {
    /// That there are two, once it is known. For good: another answer may come from the other one.
    mixed: watch::Sender<Option<StoreError>>,
    known: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    /// The latest, with all members that are remembered.
    view: View,
    seen_at: HashMap<String, Instant>,
}

impl Known {
    fn learn(&mut self, view: View) {
        let now = Instant::now();
        for member in &view.members {
            self.seen_at.insert(member.clone(), now);
        }
        self.seen_at
            .retain(|_, seen_at| now.duration_since(*seen_at) <= REMEMBERED);
        self.view = View {
            members: self.seen_at.keys().cloned().collect(),
            ..view
        };
    }
}

impl Deployment {
    /// Fails once two deployments were seen.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.mixed.borrow().clone().map_or(Ok(()), Err)
    }

    /// From now on nothing is done on any of the servers.
    pub(crate) fn refuse(&self, strangers: &Strangers) -> StoreError {
        let error = strangers.error();
        let is_first = self.mixed.send_if_modified(|mixed| {
            let is_first = mixed.is_none();
            mixed.get_or_insert_with(|| error.clone());
            is_first
        });
        if is_first {
            tracing::error!(%error, "no elections any more");
        }
        self.check().err().unwrap_or(error)
    }

    /// Completes when two deployments were seen: all terms are over then.
    pub(crate) fn until_mixed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut mixed = self.mixed.subscribe();
        async move {
            if mixed.wait_for(Option::is_some).await.is_err() {
                // The backend is gone, and tells nothing any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether this was named by a server of the deployment.
    pub(crate) fn knows(&self, member: &str) -> bool {
        let known = hold(&self.known);
        known
            .as_ref()
            .is_some_and(|known| known.seen_at.contains_key(member))
    }

    /// Takes over what a server has said, or fails if it belongs to another deployment than the
    /// servers before.
    pub(crate) fn admit(&self, view: View) -> Result<(), StoreError> {
        self.check()?;
        let mut known = hold(&self.known);
        let known = known.get_or_insert_with(|| Known {
            view: view.clone(),
            seen_at: HashMap::new(),
        });
        if let Some(strangers) = Strangers::among(&known.view, &view) {
            return Err(self.refuse(&strangers));
        }
        // What shares nothing, and keeps no lock that the others keep, tells nothing.
        if !known.view.members.is_disjoint(&view.members) {
            known.learn(view);
        }
        Ok(())
    }
}

/// What `doctor` says, of the answers of all servers that the URL leads to.
pub(crate) fn check(answers: &[Result<View, StoreError>]) -> Check {
    const NAME: &str = "deployment";
    let views: Vec<View> = answers.iter().flatten().cloned().collect();
    if let Some(strangers) = strangers(&views) {
        return Check::unusable(
            NAME,
            strangers.error().to_string(),
            "name the servers of one deployment alone",
        );
    }
    let reason = format!(
        "{} of the {} servers that the URL leads to have answered, and belong together",
        views.len(),
        answers.len()
    );
    if views.iter().any(|view| view.members.is_empty()) {
        return Check::warning(
            NAME,
            "a server does not tell which deployment it belongs to, so they cannot be compared",
            "allow +cluster|nodes and +info",
        );
    }
    let failure = answers.iter().find_map(|answer| answer.as_ref().err());
    match failure {
        None => Check::fine(NAME, reason),
        Some(error) => Check::warning(
            NAME,
            format!("{reason}; {error}"),
            "bring that server back, or name another one",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(by: &str, members: &[&str], shares: &[(u16, u16)]) -> View {
        View {
            by: by.to_owned(),
            members: members.iter().map(|&member| member.to_owned()).collect(),
            shares: shares
                .iter()
                .map(|&(first, last)| Share {
                    first,
                    last,
                    keeper: format!("{}'s", members.first().unwrap_or(&"")),
                })
                .collect(),
        }
    }

    const ALL: &[(u16, u16)] = &[(0, SLOTS - 1)];

    #[test]
    fn servers_without_a_common_member_are_strangers_if_they_keep_the_same_locks() {
        let one = view("a", &["1", "2"], ALL);
        let strange = |other: &View| strangers(&[one.clone(), other.clone()]).is_some();
        assert!(strange(&view("b", &["3"], &[(100, 100)])));
        assert!(!strange(&view("b", &["2", "3"], ALL)), "a common member");
        assert!(!strange(&view("b", &["3"], &[])), "a node that is new");
        assert!(!strange(&view("b", &[], ALL)), "it does not tell");
        let half = [view("a", &["1"], &[(0, 9)]), view("b", &["2"], &[(10, 19)])];
        assert_eq!(strangers(&half), None, "of a cluster that is being formed");
    }

    #[test]
    fn a_third_that_both_know_joins_them() {
        let [a, b, c] = [["1", "2"], ["3", "4"], ["2", "3"]].map(|ids| view("x", &ids, ALL));
        assert!(strangers(&[a.clone(), b.clone()]).is_some());
        assert_eq!(strangers(&[a.clone(), b.clone(), c.clone()]), None);
        assert_eq!(strangers(&[c, b, a]), None);
    }

    #[test]
    fn members_may_be_replaced_one_after_the_other() {
        let deployment = Deployment::default();
        for first in 0..100 {
            let ids = [first, first + 1].map(|id: u8| id.to_string());
            let ids = [ids[0].as_str(), ids[1].as_str()];
            deployment.admit(view("a", &ids, ALL)).unwrap();
        }
        let error = deployment.admit(view("b", &["x"], ALL)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        for part in ["a keeps", "99's", "b at x's", "restart"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        // For good.
        deployment.admit(view("a", &["100"], ALL)).unwrap_err();
        deployment.check().unwrap_err();
    }
}
