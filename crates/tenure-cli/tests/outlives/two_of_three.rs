//! Two of the three processes of `tenure run` are killed or stopped.

use std::thread;

use rustix::process::{Signal, kill_process};

use super::{Cell, RECORD, ROLE, WAYS, Where, kill_all};
use crate::support::stop;

/// What is done to the processes of a `tenure run`.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Kill,
    Stop,
}

/// To which of them.
#[derive(Clone, Copy, Debug)]
enum Whom {
    Tenure,
    Guard,
    Subreaper,
}

/// Whatever happens to two of the three processes, the third one kills what the command started.
const DEEDS: [&[(Deed, Whom)]; 6] = [
    &[(Deed::Kill, Whom::Tenure), (Deed::Kill, Whom::Subreaper)],
    &[(Deed::Kill, Whom::Subreaper), (Deed::Kill, Whom::Tenure)],
    &[(Deed::Stop, Whom::Tenure), (Deed::Kill, Whom::Subreaper)],
    &[(Deed::Stop, Whom::Tenure), (Deed::Kill, Whom::Guard)],
    &[(Deed::Stop, Whom::Guard), (Deed::Stop, Whom::Tenure)],
    &[(Deed::Stop, Whom::Guard), (Deed::Kill, Whom::Subreaper)],
];

fn fault_of_deeds(deeds: &[(Deed, Whom)]) -> Option<String> {
    let cell = Cell::new();
    let (_, script) = WAYS[8];
    let script = format!("setsid $W & {script}");
    let old = cell.old_with(Where::Host, &["--no-cgroup", "--exit-on-loss"], &script);
    cell.until_works("old");
    let next = cell.next();
    let [guard, subreaper] = old.helpers();
    for (deed, whom) in deeds {
        let process = match whom {
            Whom::Tenure => old.tenure,
            Whom::Guard => guard,
            Whom::Subreaper => subreaper,
        };
        match deed {
            Deed::Kill => kill_all(&[process]),
            Deed::Stop => stop(process),
        }
    }
    let late = late(&cell);
    drop(next);
    kill_all(&[guard, subreaper]);
    (late > 0).then(|| format!("{deeds:?}: worked {late} times after the next leader"))
}

/// How often something of the old leader worked after the next one.
fn late(cell: &Cell) -> usize {
    cell.until_works("new");
    let first = cell.times("new")[0];
    let old = cell.times("old").into_iter();
    old.filter(|at| *at > first).count()
}

/// Its orphans do not fall to the first process, which cannot tell them from other programs'.
#[test]
fn a_subreaper_that_is_killed_in_a_container_leaves_no_daemon_without_its_environment() {
    if !Where::PidNamespace.can_be_had() {
        return;
    }
    let cell = Cell::new();
    // It is elected again, so the container does not end.
    let script = format!(
        "test -e again && exec env {ROLE}=new $W
        touch again; env -i PATH=$PATH {ROLE}=old {RECORD}=${RECORD} ./daemon $W; sleep 600"
    );
    let old = cell.old_with(Where::PidNamespace, &["--no-cgroup"], &script);
    cell.until_works("old");
    let [_, subreaper] = old.helpers();
    kill_process(subreaper, Signal::KILL).unwrap();
    assert_eq!(late(&cell), 0);
}

#[test]
fn any_one_of_the_three_processes_is_enough_to_leave_nothing_behind() {
    let faults: Vec<String> = thread::scope(|scope| {
        let judged: Vec<_> = DEEDS
            .iter()
            .map(|deeds| scope.spawn(|| fault_of_deeds(deeds)))
            .collect();
        judged
            .into_iter()
            .filter_map(|it| it.join().unwrap())
            .collect()
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
