//! What sentinels and the nodes of a cluster answer.

use std::collections::HashSet;

use redis::Value;
use tenure_kit::Address;

use super::cluster;
use super::deployment::Deployment;
use super::sentinels;
use super::slots::SlotMap;
use crate::net::connection::text;

/// How many questions `answer` answers.
pub(crate) fn answers(answer: &Value, asked: &Address) -> usize {
    let master = sentinels::address_in(&sentinels::properties(answer));
    let members = cluster::ids_in(answer);
    let moving = text(answer).and_then(|nodes| cluster::moving(nodes, 7));
    usize::from(master.is_some())
        + usize::from(!members.is_empty())
        + usize::from(moving.is_some())
        + usize::from(is_map(answer, members, asked))
}

fn is_map(answer: &Value, members: HashSet<String>, asked: &Address) -> bool {
    let Some(told) = cluster::read_slots(answer, members, asked) else {
        return false;
    };
    let deployment = Deployment::default();
    let admitted = deployment.admit(told.view.clone()).is_ok();
    assert!(
        admitted,
        "no other answer contradicts the first: {answer:?}"
    );
    let _strangers = deployment.admit(told.view);
    let mut map = SlotMap::default();
    map.learn(told.ranges.clone(), |_| String::new());
    for range in &told.ranges {
        let _holder = map.holder_of(range.first);
    }
    true
}
