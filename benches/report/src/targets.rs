//! What the figures must show, and whether they do.

use crate::figures::{Figures, Role, Series, shown};

/// One sentence that must hold, and what was read.
pub(crate) struct Verdict {
    pub(crate) store: String,
    pub(crate) target: String,
    pub(crate) measured: String,
    pub(crate) is_met: bool,
    pub(crate) why: &'static str,
}

/// The calls with a limit beside the bare operation: by the series' name, or by the table's where
/// all of its rows are of one call.
const CALLS: [(&str, &str, &str); 2] = [
    ("tenure: acquire", "To get a free lock", "acquire"),
    ("tenure: renew", "To renew it", "renew"),
];

/// A hand-over at most so often its floor.
const HAND_OVER: f64 = 1.5;

fn call_limit(bench: &str) -> f64 {
    if bench.starts_with("kube") {
        1.10
    } else {
        1.15
    }
}

/// Why a figure is what it is, where it falls short: the benchmark, a part of the floor's name, a
/// part of the series' name, and the reason.
const REASONS: [(&str, &str, &str, &str); 11] = [
    (
        "redis",
        "SET NX",
        "acquire",
        "the bare command gives no fencing token; a token takes a counter beside the lock, and so \
         a script",
    ),
    (
        "redis",
        "token",
        "acquire",
        "the rest of the script: it adopts an earlier attempt, asks the server for its epoch, so \
         that a failover that lost a lock gives it to nobody for a lease, and takes the token \
         from the server's clock where the counter was lost",
    ),
    (
        "redis",
        "safe lock",
        "acquire",
        "the rest of the script: it adopts an earlier attempt, takes the token from the server's \
         clock where the counter was lost, and keeps the lease and the holder's name beside it",
    ),
    (
        "redis",
        "PEXPIRE",
        "renew",
        "the bare command would lengthen a successor's lease; a renewal that cannot needs a \
         script",
    ),
    (
        "redis",
        "if it is mine",
        "renew",
        "the script makes the same two calls; the rest is on our side: the whole record is put \
         together and sent to be compared",
    ),
    (
        "redis",
        "PUBLISH",
        "release to the next grant",
        "a release is a write, which such a server keeps on its disk before it tells of it; the \
         floor's message is none",
    ),
    (
        "redis",
        "",
        "next leader",
        "as the row above; and the engine's task is woken by the message, and wakes the \
         application's task when it has the lock",
    ),
    (
        "postgres",
        "blocked session",
        "",
        "the floor is an unlock alone: it gives no token, and whoever is blocked in the lock can \
         be a ghost. Ours is told, tries, and waits until its token is on the server's disk; the \
         bare statements for that are in the same table, and ours is judged beside them too",
    ),
    (
        "etcd",
        "bare request (floor)",
        "acquire",
        "the bare put does not tell who was first; the next row's floor does",
    ),
    (
        "etcd",
        "bare request (floor)",
        "renew",
        "a keepalive alone would not notice that a key was deleted, or that another member has \
         followed the one that answers; ours asks for the lease's keys and for a majority too",
    ),
    (
        "postgres",
        "",
        "",
        "the server's disk and a busy machine are most of it: see the spread. Over 200 rounds and \
         more a renewal is 1.1 x, an acquisition 1.1 x and a hand-over 1.1 to 1.5 x",
    ),
];

/// Three figures, however small.
fn times(ratio: f64) -> String {
    if ratio < 0.1 {
        format!("{ratio:.4} x")
    } else {
        format!("{ratio:.2} x")
    }
}

fn why(bench: &str, floor: &str, what: &str, name: &str) -> &'static str {
    REASONS
        .iter()
        .find(|(of, beside, call, _)| {
            bench.starts_with(of)
                && floor.contains(beside)
                && (what == *call || name.contains(call))
        })
        .map_or("not explained yet", |(_, _, _, why)| why)
}

/// All of it, store by store.
pub(crate) fn judge(figures: &Figures) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for bench in figures.stores_beside_peers() {
        for table in figures.tables(bench) {
            let lines = figures.lines(bench, table);
            for line in lines.iter().filter(|line| line.role() == Role::Tenure) {
                verdicts.extend(beside_floor(figures, line));
            }
            if lines.iter().any(|line| line.is_hand_over()) {
                verdicts.extend(beside_peers(figures, bench, table));
            }
        }
    }
    verdicts
}

fn beside_floor(figures: &Figures, line: &Series) -> Option<Verdict> {
    let floor = line.floor.as_deref()?;
    let ratio = figures.ratio(line, floor)?;
    let call = CALLS.iter().find(|(start, table, _)| {
        line.name.starts_with(start) || (line.name == "tenure" && line.table.starts_with(table))
    });
    let (what, limit) = match call {
        Some((_, _, call)) => (*call, call_limit(&line.bench)),
        None if line.is_hand_over() => ("hand-over", HAND_OVER),
        None => return None,
    };
    let is_met = ratio <= limit + 0.005;
    let name = line.name.trim_start_matches("tenure: ");
    let table = &line.table;
    Some(Verdict {
        store: line.bench.clone(),
        target: format!("{what} at most {limit:.2} x its floor"),
        measured: format!("{ratio:.2} x: {name}, beside {floor} ({table})"),
        is_met,
        why: if is_met {
            ""
        } else {
            why(&line.bench, floor, what, &line.name)
        },
    })
}

/// The hand-over that an application sees beside each peer's.
fn beside_peers(figures: &Figures, bench: &str, table: &str) -> Vec<Verdict> {
    let all = figures.distinct(bench, table);
    let mut ours = all.iter().filter(|series| series.is_hand_over());
    // An election's where there is one; it stands below the backend's own.
    let Some(ours) = ours.next_back() else {
        return Vec::new();
    };
    let peers = all.iter().filter(|series| series.role() == Role::Peer);
    peers
        .map(|peer| {
            let ratio = ours.median() / peer.median();
            let is_met = ratio < 1.0;
            Verdict {
                store: bench.to_owned(),
                target: "hand-over ahead of every peer".to_owned(),
                measured: format!(
                    "{}: {} beside {} of {}",
                    times(ratio),
                    shown(ours.median()),
                    shown(peer.median()),
                    peer.name
                ),
                is_met,
                why: match (is_met, peer.name.contains("no token")) {
                    (true, _) => "",
                    (false, true) => "the peer gives no fencing token, and so waits for no disk",
                    (false, false) if bench == "etcd" => {
                        "the peer takes the end of the one before it for its own lead. Ours asks \
                         the store once more, so that a candidate whose lease has ended meanwhile \
                         never leads"
                    }
                    (false, false) => "not explained yet",
                },
            }
        })
        .collect()
}
