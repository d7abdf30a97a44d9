//! What clients meet instead of a member that serves: a learner, a proxy.

use crate::etcd::{Cluster, Member, QUIET, arguments};
use crate::port::{free_port, free_ports};
use crate::process::Process;
use crate::wait::wait_until;

/// An `etcd grpc-proxy`; killed on drop.
#[derive(Debug)]
pub struct GrpcProxy {
    port: u16,
    _process: Process,
}

impl GrpcProxy {
    /// `127.0.0.1:12345`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Cluster {
    /// Adds a learner to a cluster of one, as its last member, and waits until it has the data.
    pub fn add_learner(&mut self) {
        assert_eq!(self.members.len(), 1);
        let [port, peer] = free_ports();
        let (client, peer) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let first = self.members[0].argument("initial-cluster");
        self.ctl(&[
            "member",
            "add",
            "learner",
            "--learner",
            "--peer-urls",
            &peer,
        ]);
        let data = self.dir.path().join("learner");
        let initial = format!("{first},learner={peer}");
        let mut arguments = arguments("learner", &data, &client, &peer, &initial);
        arguments.push("--initial-cluster-state=existing".to_owned());
        arguments.extend(QUIET.map(str::to_owned));
        self.members.push(Member {
            port,
            process: Member::spawn(&self.programs, &arguments),
            programs: self.programs.clone(),
            arguments,
        });
        wait_until("the learner answers", || {
            let read = ["get", "-", "--consistency=s"];
            self.try_ctl_at(1, &read).status.success()
        });
    }

    /// An `etcd grpc-proxy` in front of the first member, with more arguments.
    pub fn grpc_proxy(&self, more: &[&str]) -> GrpcProxy {
        let port = free_port();
        let mut command = self.programs.command("etcd");
        command
            .args(["grpc-proxy", "start"])
            .arg(format!("--endpoints={}", self.members[0].address()))
            .arg(format!("--listen-addr=127.0.0.1:{port}"))
            .args(more);
        let proxy = GrpcProxy {
            port,
            _process: Process::start(&mut command),
        };
        let mut read = self.programs.command("etcdctl");
        read.env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", proxy.address()))
            .args(["get", "-"]);
        wait_until("the proxy answers", || {
            read.output().unwrap().status.success()
        });
        proxy
    }
}
