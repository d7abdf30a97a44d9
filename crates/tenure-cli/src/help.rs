//! What `--help` says after the options.

pub(crate) const EXAMPLES: &str = "\
Examples:
  Run a batch job on one of many hosts at a time; start this on each of them:
    tenure run --backend file:///var/lib/batch --lock nightly-batch -- ./batch.sh

  Who leads?
    tenure status --backend file:///var/lib/batch --lock nightly-batch

Each option can be given as the environment variable shown beside it. TENURE_LOG sets what is
logged on standard error: error, warn, info, debug or trace. It is warn by default, and info when
standard error is a terminal. RUST_LOG does the same where TENURE_LOG is not set.

Errors go to standard error, with exit code 2. With --json or --log-format json they are one JSON
object, and so is each line of the log. All exit codes and the JSON of each command:
docs/reference/command-line.md.";

pub(crate) const RUN_HELP: &str = "\
CMD runs in a process group of its own, with TENURE_LOCK, TENURE_IDENTITY and TENURE_TOKEN (the
term's fencing token) in its environment. It gets TENURE_BACKEND only with --pass-backend.

  CMD exits              the lock is released; tenure exits with CMD's code, or 128 + N when
                         signal N killed CMD. What CMD left running is killed first.
  leadership is lost     CMD gets SIGTERM, and SIGKILL before another can be elected; then
                         tenure campaigns again, or exits with 75 (--exit-on-loss).
  tenure step-down       CMD gets SIGTERM, and SIGKILL after --drain-limit; then the others go
                         first, and tenure campaigns again, or exits with 75 (--exit-on-loss).
  SIGTERM, SIGINT        are passed on to CMD, which is awaited; then the lock is released. A
                         second one, or the end of --drain-limit, kills CMD. What comes within
                         half a second is the same request: GNU timeout sends two.
  other signals          are passed on to CMD. A candidate that waits ends with SIGTERM, SIGINT,
                         SIGQUIT and SIGHUP, and ignores the others. SIGSTOP, SIGTSTP, SIGTTIN and
                         SIGTTOU stop tenure, and are not passed on; SIGKILL ends it, and so do
                         SIGABRT, SIGSEGV and others that tell of a fault in tenure itself.
  tenure is killed       CMD is killed at once.
  tenure is stopped      CMD is killed before another can be elected.
  CMD is stopped         CMD is killed after the stop grace, and the lock is given up.
  a terminal             if tenure is in its foreground, CMD is. Ctrl-Z stops both; after fg both
                         go on if the term is still valid. In the background CMD gets no input.

tenure kills CMD with everything that it has started, also what has left its process group or is a
daemon. Where tenure may make a cgroup v2 below its own, CMD runs there. tenure cannot kill these,
so they may work on without the lock:

  another user           what runs as another user (sudo, su, set-uid), unless tenure is root or
                         CMD has a cgroup
  another init system    what CMD has only asked others to start (systemd-run, at, docker run)
  all at once            what has left CMD's process group, when SIGKILL ends tenure and both its
                         helpers at once. A container that ends with tenure prevents this. With a
                         cgroup, the next tenure that is elected in the same place kills it before
                         it starts its own CMD

Not elected with --try, or within --wait: exit code 69. CMD was not started then; after a term that
was lost the code is 75.

CMD that cannot be found gives exit code 127, CMD that cannot be executed 126.";

pub(crate) const STATUS_HELP: &str = "\
Exit code 0 when there is a leader, 1 when there is none, 2 on an error.

Where candidates judge leases, a record may name a leader that this command has not seen renewing
yet. That is the state \"unknown\" with a leader, and exit code 0.";

pub(crate) const DOCTOR_HELP: &str = "\
Looks only: nothing is changed at the store, and no election is disturbed.

Exit code 0 when all is fine, 1 when there are warnings, 2 when the store is unusable: nobody could
be elected, or nobody should rely on it.";

pub(crate) const BENCH_HELP: &str = "\
Two candidates make one call after the other, for under a minute, on a lock of a new name. The lock
is released at the end, also on SIGINT and SIGTERM. bench says what the store keeps of a released
lock, since candidates have no right to delete.

bench asks before it loads a store that others may use; --yes is the answer for scripts. It does not
ask about file: and memory: URLs.";

pub(crate) const STEP_DOWN_HELP: &str = "\
The leader finds the wish with its next heartbeat and tells its work to stop: tenure run stops CMD
with SIGTERM. It keeps the lock until the work has stopped, for at most its drain limit. Then it
lets the others go first, and campaigns again.

The wish names the fencing token of the term. So a late wish ends no other term.

Works on file:, redis:, etcd:, kube-lease: and kube-configmap:, with the rights of a candidate. A
store in which anybody could leave such a wish says that it cannot carry one.

Exit code 0 when the term is over, 1 when there is no leader, 2 on an error, 76 when the leader
still leads after --timeout. Then no heartbeat came in this time, its work takes longer, or its
version of tenure does not know the wish. Give --timeout more than a heartbeat and the drain limit.";

pub(crate) const LIST_HELP: &str = "\
Works on file:, etcd:, kube-lease: and kube-configmap:. The other stores say why they cannot list:
one would have to look at every key of its database, another knows locks by numbers only.

Listing needs a right that no candidate needs. On etcd it is the right to read all keys below the
prefix, on Kubernetes the verb \"list\" on the objects of the namespace.

Names that no lock can have are left out. A free lock is shown where the store keeps its record.

Exit code 2 too when the record of a single lock cannot be read. The error names that lock, and the
others are shown.";

#[cfg(test)]
mod tests {
    use super::*;

    /// `max_term_width` is 100: a longer line is broken, and what is below a column is not.
    #[test]
    fn no_line_is_broken() {
        for text in [
            EXAMPLES,
            RUN_HELP,
            STATUS_HELP,
            DOCTOR_HELP,
            BENCH_HELP,
            STEP_DOWN_HELP,
            LIST_HELP,
        ] {
            for line in text.lines() {
                assert!(line.len() <= 100, "{line}");
            }
        }
    }
}
