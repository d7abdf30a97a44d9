//! Two processes of the controller on a real API server, whose kubeconfig is in
//! `TENURE_TEST_KUBECONFIG`: `eval "$(cargo xtask stores env)"` sets it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Nothing takes so long unless it never comes.
const LIMIT: Duration = Duration::from_secs(120);

/// Killed when the test ends, also when it fails.
struct Instance {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Instance {
    fn start(kubeconfig: &str, lock: &str, name: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kube-controller"))
            .env("KUBECONFIG", kubeconfig)
            .env(
                "TENURE_BACKEND",
                format!("kube-lease://default?kubeconfig={kubeconfig}"),
            )
            .env("TENURE_LOCK", lock)
            .env("TENURE_IDENTITY", name)
            .env("TENURE_POLICY", "fast")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// Its token, once it leads.
    fn leads(&mut self) -> u64 {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        let token = line.trim().strip_prefix("leads under token ");
        token.unwrap_or_else(|| panic!("{line:?}")).parse().unwrap()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // It may have been killed before.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

async fn client(kubeconfig: &str) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(read, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

fn config_map(name: &str, data: &[&str]) -> ConfigMap {
    let entry = |key: &&str| ((*key).to_owned(), String::new());
    let mut object = ConfigMap {
        data: Some(data.iter().map(entry).collect()),
        ..ConfigMap::default()
    };
    object.metadata.name = Some(name.to_owned());
    let label = ("tenure.example/count".to_owned(), "entries".to_owned());
    object.metadata.labels = Some(BTreeMap::from([label]));
    object
}

/// Waits for the count, and gives the token that it was written under.
async fn counted(objects: &Api<ConfigMap>, name: &str, count: &str) -> u64 {
    let start = Instant::now();
    loop {
        let object = objects.get(name).await.unwrap();
        let annotations = object.annotations();
        if annotations
            .get("tenure.example/entries")
            .map(String::as_str)
            == Some(count)
        {
            return annotations["tenure.example/token"].parse().unwrap();
        }
        assert!(
            start.elapsed() < LIMIT,
            "waited in vain until {name} has {count}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_reconciles_and_after_its_end_the_next_one() {
    let Ok(kubeconfig) = std::env::var("TENURE_TEST_KUBECONFIG") else {
        let missing = "no API server: TENURE_TEST_KUBECONFIG is not set";
        assert!(
            std::env::var_os("TENURE_TEST_STRICT").is_none(),
            "{missing}"
        );
        println!("LEFT OUT: {missing}");
        return;
    };
    let lock = format!("controller-{}", std::process::id());
    let objects: Api<ConfigMap> = Api::namespaced(client(&kubeconfig).await, "default");
    let mut alice = Instance::start(&kubeconfig, &lock, "alice");
    let first = alice.leads();
    let mut bob = Instance::start(&kubeconfig, &lock, "bob");

    let name = format!("{lock}-one");
    let object = config_map(&name, &["a", "b"]);
    let made = objects.create(&PostParams::default(), &object).await;
    made.unwrap();
    assert_eq!(counted(&objects, &name, "2").await, first);

    alice.child.kill().unwrap();
    let more = Patch::Merge(json!({ "data": { "c": "" } }));
    let patched = objects.patch(&name, &PatchParams::default(), &more).await;
    patched.unwrap();
    let second = bob.leads();
    assert!(second > first, "{second} after {first}");
    assert_eq!(counted(&objects, &name, "3").await, second);

    let deleted = objects.delete(&name, &DeleteParams::default()).await;
    deleted.unwrap();
}
