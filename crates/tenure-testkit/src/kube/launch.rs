//! What an API server is started with: RBAC on, TLS by a CA made for it, users with tokens. No
//! controller, scheduler or kubelet runs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::certificates::{Authority, key_pair};

/// The user of [`rights`](super::rights), by a certificate.
pub const CANDIDATE: &str = "candidate";

/// Its certificates and keys, and a token for each user, in one folder: `ca.pem`, `server.pem`,
/// `server.key`, `accounts.key`, `accounts.pub`, `tokens.csv`, and `USER.token`; and
/// `candidate.pem` and `candidate.key` for [`CANDIDATE`].
pub fn write_secrets(folder: &Path, users: &[(&str, &str)]) {
    let authority = Authority::new(folder);
    let hosts = ["127.0.0.1", "localhost", "kubernetes.default.svc"];
    authority.certificate("server", &hosts);
    authority.certificate(CANDIDATE, &[]);
    let (private, public) = key_pair();
    fs::write(folder.join("accounts.key"), private).unwrap();
    fs::write(folder.join("accounts.pub"), public).unwrap();
    let mut table = String::new();
    for (user, group) in users {
        let token = format!("{:032x}", fastrand::u128(..));
        fs::write(folder.join(format!("{user}.token")), &token).unwrap();
        writeln!(table, "{token},{user},{user},{group}").unwrap();
    }
    fs::write(folder.join("tokens.csv"), table).unwrap();
}

/// The arguments of an API server on these endpoints of etcd, with the secrets in `folder`.
pub fn arguments(etcd: &str, port: u16, folder: &Path) -> Vec<String> {
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let flags = [
        ("etcd-servers", etcd.to_owned()),
        ("bind-address", "127.0.0.1".to_owned()),
        ("advertise-address", "127.0.0.1".to_owned()),
        // Its own address is no endpoint for pods here, and loopback would be refused as one.
        ("endpoint-reconciler-type", "none".to_owned()),
        ("secure-port", port.to_string()),
        ("cert-dir", file("certificates")),
        ("tls-cert-file", file("server.pem")),
        ("tls-private-key-file", file("server.key")),
        ("client-ca-file", file("ca.pem")),
        ("authorization-mode", "RBAC".to_owned()),
        ("token-auth-file", file("tokens.csv")),
        (
            "service-account-issuer",
            "https://kubernetes.default.svc".to_owned(),
        ),
        ("service-account-signing-key-file", file("accounts.key")),
        ("service-account-key-file", file("accounts.pub")),
        ("service-cluster-ip-range", "10.0.0.0/24".to_owned()),
        // It would refuse pods whose account no controller has made.
        ("disable-admission-plugins", "ServiceAccount".to_owned()),
    ];
    let flags = flags
        .iter()
        .map(|(flag, value)| format!("--{flag}={value}"));
    flags.collect()
}
