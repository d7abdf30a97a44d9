//! Certificates of a test's own, as files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// An authority, and the certificates it has given out, in one folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, with its own certificate in [`ca`](Self::ca).
    pub fn new(folder: &Path) -> Self {
        let mut params = named(&folder.to_string_lossy(), &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::create_dir_all(folder).unwrap();
        let authority = Self {
            folder: folder.to_owned(),
            issuer,
        };
        fs::write(authority.ca(), authority.issuer.pem()).unwrap();
        authority
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// A file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A certificate of this name for these hosts, and its key.
    pub fn certificate(&self, name: &str, hosts: &[&str]) -> (PathBuf, PathBuf) {
        self.sign(name, &named(name, hosts))
    }

    /// The same; it ended years ago.
    pub fn expired_certificate(&self, name: &str, hosts: &[&str]) -> (PathBuf, PathBuf) {
        let mut params = named(name, hosts);
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(name, &params)
    }

    fn sign(&self, name: &str, params: &CertificateParams) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        write(&self.folder, name, &certificate.pem(), &key.serialize_pem())
    }
}

/// A certificate of this name for these hosts that nobody has signed but itself, and its key.
pub fn self_signed(folder: &Path, name: &str, hosts: &[&str]) -> (PathBuf, PathBuf) {
    let mut params = named(name, hosts);
    params.is_ca = IsCa::ExplicitNoCa;
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    write(folder, name, &certificate.pem(), &key.serialize_pem())
}

/// A private and a public key, as PEM.
pub fn key_pair() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (key.serialize_pem(), key.public_key_pem())
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    // Without a name of its own it would look signed by its issuer itself.
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn write(folder: &Path, name: &str, certificate: &str, key: &str) -> (PathBuf, PathBuf) {
    let files = (
        folder.join(format!("{name}.pem")),
        folder.join(format!("{name}.key")),
    );
    fs::write(&files.0, certificate).unwrap();
    fs::write(&files.1, key).unwrap();
    // Postgres refuses a key that others can read.
    fs::set_permissions(&files.1, Permissions::from_mode(0o600)).unwrap();
    files
}
