//! Many leaders of kubert in one process, each with a client of its own, for `cargo xtask retention`:
//! it prints `leads NUMBER` and `stopped NUMBER expired`, and `ready` when all campaign. It ends with
//! its input.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi_of_kubert::api::coordination::v1::Lease;
use kube_of_kubert::Api;
use kube_of_kubert::api::PostParams;
use kubert::LeaseManager;
use kubert::lease::ClaimParams;
use tokio::time::sleep;

/// The defaults of the example in kubert's documentation, with client-go's lease.
const PARAMS: ClaimParams = ClaimParams {
    lease_duration: Duration::from_secs(15),
    renew_grace_period: Duration::from_secs(5),
};

/// From one renewal to the next.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How often a claim is looked at: it ends without an event.
const LOOKS: Duration = Duration::from_millis(50);

fn main() {
    let Some(many) = argument("--many") else {
        return;
    };
    let many: u32 = many.parse().unwrap();
    let (lock, file) = (
        argument("--lock").unwrap(),
        argument("--kubeconfig").unwrap(),
    );
    let ring = rustls::crypto::ring::default_provider();
    ring.install_default().unwrap();
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ended = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for number in 0..many {
            let lock = format!("{lock}-{number}");
            tokio::spawn(lead(file.clone().into(), lock, number));
            sleep(HEARTBEAT / many).await;
        }
        println!("ready");
        std::future::pending::<()>().await;
    });
}

fn argument(name: &str) -> Option<String> {
    let mut words = std::env::args().skip_while(|word| word != name);
    words.nth(1)
}

async fn lead(file: PathBuf, lock: String, number: u32) {
    let read = kube_of_kubert::config::Kubeconfig::read_from(file).unwrap();
    let options = kube_of_kubert::config::KubeConfigOptions::default();
    let config = kube_of_kubert::Config::from_custom_kubeconfig(read, &options);
    let client = kube_of_kubert::Client::try_from(config.await.unwrap()).unwrap();
    let api = Api::<Lease>::namespaced(client, "default");
    // kubert makes none itself.
    let mut lease = Lease::default();
    lease.metadata.name = Some(lock.clone());
    api.create(&PostParams::default(), &lease).await.unwrap();
    let manager = LeaseManager::init(api, &lock).await.unwrap();
    let claimant = format!("leader-{number}");
    let (claims, _task) = manager.spawn(claimant.clone(), PARAMS).await.unwrap();
    let mut leads = false;
    loop {
        let is_current = claims.borrow().is_current_for(&claimant);
        if is_current != leads {
            leads = is_current;
            let what = if leads { "leads" } else { "stopped" };
            println!("{what} {number} expired");
        }
        sleep(LOOKS).await;
    }
}
