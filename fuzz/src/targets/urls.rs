//! URLs of every backend.

use tenure::redact;
use tenure_core::Error;
use tenure_etcd::EtcdConfig;
use tenure_file::FileConfig;
use tenure_kube::KubeConfig;
use tenure_postgres::PostgresConfig;
use tenure_redis::RedisConfig;

use crate::{inputs, plant, rules};

/// A URL of any scheme, for each backend.
pub(crate) fn url(input: &[u8]) {
    let Some(url) = inputs::text(input) else {
        return;
    };
    let _shown = redact(url);
    for outcome in read(url) {
        if let Err(error) = outcome {
            rules::error(&error);
        }
    }
}

/// A password that no input holds by chance.
const SECRET: &str = "Hunter2Sesame";

/// Where a password stands in a URL, and what follows it.
pub(crate) fn secret(input: &[u8]) {
    let Some(rest) = inputs::text(input).filter(|rest| !rest.contains(SECRET)) else {
        return;
    };
    for scheme in ["etcd", "redis", "redis+sentinel", "postgres", "kube-lease"] {
        for url in [
            format!("{scheme}://user:{SECRET}@{rest}"),
            format!("{scheme}://host/?password={SECRET}&{rest}"),
            format!("{scheme}://host/?{rest}&password={SECRET}"),
        ] {
            let shown = redact(&url).to_string();
            assert!(!shown.contains(SECRET), "redacted: {shown}");
            for outcome in read(&url) {
                let shown = match outcome {
                    Ok(config) => config,
                    Err(error) => format!("{error:?} {error}"),
                };
                assert!(!shown.contains(SECRET), "{shown}");
            }
        }
    }
}

/// What each backend makes of a URL, as its configuration's `Debug` shows it.
fn read(url: &str) -> [Result<String, Error>; 6] {
    let etcd = EtcdConfig::from_url(url);
    let redis = RedisConfig::from_url(url);
    let postgres = PostgresConfig::from_url(url);
    plant::at(redis.is_ok(), url);
    [
        etcd.map(|config| format!("{config:?}")),
        redis.map(|config| format!("{config:?}")),
        postgres.map(|config| format!("{config:?}")),
        FileConfig::from_url(url).map(|config| format!("{config:?}")),
        KubeConfig::from_url("kube-lease", url).map(|config| format!("{config:?}")),
        KubeConfig::from_url("kube-configmap", url).map(|config| format!("{config:?}")),
    ]
}
