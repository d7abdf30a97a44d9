//! `tenure doctor` on real servers: each planted misconfiguration is found, and nothing is changed.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use support::{Place, stderr, stdout, tenure, until};
use tenure_testkit::certificates::{Authority, self_signed};
use tenure_testkit::{etcd, free_port, kube, postgres, redis};

/// What the doctor has said.
struct Diagnosis {
    code: Option<i32>,
    told: Value,
    all: String,
}

fn run(url: &str, more: &[&str]) -> Output {
    let mut doctor = tenure();
    doctor.args(["doctor", "--backend", url]).args(more);
    doctor.output().unwrap()
}

fn doctor(url: &str, more: &[&str]) -> Diagnosis {
    let output = run(url, &[more, &["--json"]].concat());
    let all = format!("{}{}", stdout(&output), stderr(&output));
    Diagnosis {
        code: output.status.code(),
        told: serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{all}")),
        all,
    }
}

impl Diagnosis {
    /// The check with this name has this verdict, and names what is wrong or what to do.
    #[track_caller]
    fn says(self, name: &str, verdict: &str, text: &str) -> Self {
        let checks = self.told["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| panic!("no check {name:?}: {}", self.all));
        assert_eq!(check["verdict"], verdict, "{check}");
        assert!(check.to_string().contains(text), "{text:?} in {check}");
        if verdict != "fine" {
            assert!(check["remedy"].is_string(), "{check}");
        }
        self
    }

    #[track_caller]
    fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.all);
        let verdict = ["fine", "warning", "unusable"][usize::try_from(code).unwrap()];
        assert_eq!(self.told["verdict"], verdict);
        self
    }

    #[track_caller]
    fn hides(self, secret: &str) -> Self {
        assert!(!self.all.contains(secret), "{}", self.all);
        self
    }
}

/// The certificate of an authority that has signed nobody's.
fn foreign_authority(place: &Place) -> String {
    let authority = Authority::new(&place.path("foreign"));
    text(&authority.ca()).to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_directory_is_fine_and_a_missing_one_is_not_made() {
    let place = Place::new();
    place.make_store();
    doctor(&place.url(), &["--lock", "job"])
        .says("connection", "fine", "file")
        .says("permissions", "fine", "store")
        .says("fencing", "fine", "not over a deletion")
        .ends(0);
    assert_eq!(fs::read_dir(place.path("store")).unwrap().count(), 0);

    let missing = format!("file://{}", text(&place.path("missing")));
    doctor(&missing, &[])
        .says("connection", "unusable", "does not exist")
        .ends(2);
    assert!(!place.path("missing").exists());

    doctor("memory:", &[])
        .says("scope", "warning", "this process only")
        .ends(1);
}

#[test]
fn people_read_a_line_for_each_check_and_what_to_do() {
    let output = run("memory:", &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("warning   scope "), "{text}");
    assert!(
        text.contains("\n                                -> use a store that"),
        "{text}"
    );
    assert!(text.ends_with("usable, with 1 to look at\n"), "{text}");
}

#[test]
fn a_policy_that_the_store_cannot_grant_and_bad_input_are_told() {
    let place = Place::new();
    place.make_store();
    doctor(&place.url(), &["--lease", "50ms", "--heartbeat", "10ms"])
        .says("policy", "unusable", "100ms")
        .ends(2);
    for wrong in [&["--lock", "Not A Name"][..], &["--lease", "soon"]] {
        let output = run(&place.url(), wrong);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            stderr(&output).starts_with("tenure: "),
            "{}",
            stderr(&output)
        );
    }
    doctor("redis://app:s3cret@127.0.0.1:1", &[])
        .says("connection", "unusable", "is the server running")
        .hides("s3cret")
        .ends(2);
}

#[test]
fn redis_eviction_wrong_password_replica_and_wrong_authority_are_found() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(server) = redis::start(&durable) else {
        return;
    };
    let url = |port: u16| format!("redis://127.0.0.1:{port}");
    doctor(&url(server.port), &[])
        .says("permissions", "fine", "")
        .ends(0);
    assert_eq!(server.number(&["DBSIZE"]), 0);

    let settings = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let evicting = redis::start(&[&settings[..], &durable].concat()).unwrap();
    doctor(&url(evicting.port), &[])
        .says("eviction", "unusable", "noeviction")
        .ends(2);

    let locked = redis::start_with_password(&["--requirepass", "s3cret"], Some("s3cret"));
    let port = locked.as_ref().unwrap().port;
    doctor(&format!("redis://:wr0ng@127.0.0.1:{port}"), &[])
        .says("connection", "unusable", "password")
        .hides("wr0ng")
        .ends(2);

    let (_master, replica) = redis::start_pair(&[]).unwrap();
    doctor(&url(replica.port), &[])
        .says("connection", "unusable", "is a replica")
        .ends(2);

    let place = Place::new();
    let authority = foreign_authority(&place);
    let (certificate, key) = self_signed(&place.path(""), "server", &["localhost"]);
    let port = free_port();
    let _encrypted = redis::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        text(&certificate),
        "--tls-key-file",
        text(&key),
        "--tls-ca-cert-file",
        text(&certificate),
        "--tls-auth-clients",
        "no",
    ]);
    doctor(&format!("rediss://localhost:{port}?ca={authority}"), &[])
        .says("connection", "unusable", "certificate")
        .ends(2);
}

#[test]
fn postgres_pooler_standby_wrong_password_and_volatile_settings_are_found() {
    let Some(server) = postgres::start(&[]) else {
        return;
    };
    doctor(&server.url(), &[])
        .says("idle timeout", "fine", "20s")
        .says("pooler", "fine", "")
        .ends(0);

    let wrong = server.url().replace(postgres::PASSWORD, "wr0ng");
    doctor(&wrong, &[])
        .says("connection", "unusable", "password")
        .hides("wr0ng")
        .ends(2);

    if let Some(bouncer) = postgres::Bouncer::start(&server, "transaction") {
        let url = server
            .url()
            .replace(&server.port.to_string(), &bouncer.port.to_string());
        doctor(&url, &[])
            .says("connection", "unusable", "connection pooler")
            .hides(postgres::PASSWORD)
            .ends(2);
    }

    let standby = server.standby();
    doctor(&standby.url(), &[])
        .says("writes", "unusable", "standby")
        .ends(2);
    until("the standby streams", || {
        let found = doctor(&server.url(), &[]);
        found.told["verdict"] == "warning" && found.all.contains("none is waited for")
    });

    let careless = postgres::start(&["fsync=off"]).unwrap();
    doctor(&careless.url(), &[])
        .says("persistence", "warning", "fsync is off")
        .ends(1);
    let sequence = format!("{}&token_sequence=nowhere", server.url());
    doctor(&sequence, &[])
        .says("token sequence", "unusable", "CREATE SEQUENCE")
        .ends(2);
}

#[test]
fn etcd_short_leases_missing_members_rights_and_passwords_are_found() {
    let Some(etcd) = etcd::start() else { return };
    let port = etcd.members[0].port;
    let url = format!("etcd://127.0.0.1:{port}");
    doctor(&url, &["--policy", "fast"])
        .says("endpoint", "fine", "raft leader")
        .says("permissions", "fine", "tenure-doctor/")
        .ends(0);
    doctor(&url, &["--lease", "1s", "--heartbeat", "200ms"])
        .says("policy", "unusable", "etcd can grant")
        .ends(2);
    doctor(&format!("etcd://127.0.0.1:{port},127.0.0.1:1"), &[])
        .says("alarms", "fine", "none")
        .ends(1);

    for words in [
        "user add root:r00t --interactive=false",
        "role add root",
        "user grant-role root root",
        "user add reader:s3cret --interactive=false",
        "role add reader",
        "role grant-permission --prefix=true reader read tenure-doctor/",
        "user grant-role reader reader",
        "auth enable",
    ] {
        etcd.ctl(&words.split(' ').collect::<Vec<_>>());
    }
    let as_user = |user: &str| format!("etcd://{user}@127.0.0.1:{port}");
    doctor(&as_user("reader:wr0ng"), &[])
        .says("connection", "unusable", "user and password")
        .hides("wr0ng")
        .ends(2);
    doctor(&as_user("reader:s3cret"), &[])
        .says("latency", "fine", "")
        .says("permissions", "unusable", "grant-permission")
        .ends(2);
    doctor(&as_user("root:r00t"), &[])
        .says("permissions", "fine", "")
        .ends(0);
    let kept = etcd.ctl(&["--user", "root:r00t", "get", "--prefix", "tenure-doctor"]);
    assert_eq!(kept, "");
}

#[tokio::test]
async fn kubernetes_missing_verbs_namespaces_and_wrong_authorities_are_found() {
    let Some(server) = kube::Server::start().await else {
        return;
    };
    let admin = std::env::var("TENURE_TEST_KUBECONFIG").unwrap();
    let observer = std::env::var("TENURE_TEST_KUBECONFIG_OBSERVER").unwrap();
    let namespace = &server.namespace;
    let url = |kubeconfig: &str| format!("kube-lease://{namespace}?kubeconfig={kubeconfig}");
    doctor(&url(&admin), &["--lock", "job"])
        .says("object", "fine", "the first candidate makes it")
        .ends(0);
    doctor(
        &format!("kube-lease://no-such-place?kubeconfig={admin}"),
        &[],
    )
    .says("object", "unusable", "no-such-place")
    .ends(2);

    // Nobody granted it anything yet.
    let with_pods = format!("{}&gone_pods=true", url(&observer));
    doctor(&with_pods, &[]).says("permission to get pods", "warning", "gone_pods");

    // The user may do all but watch; then all but update.
    for (verbs, missing, verdict, code) in [
        (&["get", "update"][..], "watch", "warning", 1),
        (&["get", "watch"], "update", "unusable", 2),
    ] {
        let name = format!("all-but-{missing}");
        let base = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        let group = "coordination.k8s.io";
        let role = json!({
            "metadata": { "name": name },
            "rules": [
                { "apiGroups": [group], "resources": ["leases"], "resourceNames": ["job"], "verbs": verbs },
                { "apiGroups": [group], "resources": ["leases"], "verbs": ["create"] },
            ],
        });
        let binding = json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [
                { "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "observer" },
            ],
        });
        for (plural, object) in [("roles", &role), ("rolebindings", &binding)] {
            let (status, answer) = server
                .send("POST", &format!("{base}/{plural}"), Some(object))
                .await;
            assert_eq!(status, 201, "{answer}");
        }
        // The server hears of new rights a little later.
        let check = format!("permission to {missing}");
        until("the rights are known", || {
            let found = doctor(&url(&observer), &["--lock", "job"]);
            let checks = found.told["checks"].as_array().unwrap();
            let of = |name: &str| {
                checks
                    .iter()
                    .find(|check| check["name"] == name)
                    .unwrap()
                    .clone()
            };
            of("permission to get")["verdict"] == "fine" && of(&check)["verdict"] != "fine"
        });
        doctor(&url(&observer), &["--lock", "job"])
            .says(&check, verdict, "tenure rbac")
            .ends(code);
        for plural in ["rolebindings", "roles"] {
            let path = format!("{base}/{plural}/{name}");
            assert_eq!(server.send("DELETE", &path, None).await.0, 200);
        }
        until("the rights are gone", || {
            let found = doctor(&url(&observer), &["--lock", "job"]);
            found.all.contains("we may not get leases")
        });
    }

    let place = Place::new();
    let authority = foreign_authority(&place);
    let (address, token) = (&server.url, server.token_file.to_str().unwrap());
    let wrong =
        format!("kube-lease://{namespace}?server={address}&ca={authority}&token_file={token}");
    doctor(&wrong, &[])
        .says("connection", "unusable", "certificate")
        .ends(2);
    let (status, left) = server
        .send(
            "GET",
            &format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"),
            None,
        )
        .await;
    assert_eq!((status, &left["items"]), (200, &json!([])));
}
