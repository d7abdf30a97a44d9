//! Which proxy the environment names for a server, by the rules of Go's clients: `kubectl`,
//! `client-go` and `etcdctl` go the same path then.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::proxy::forward::Proxy;
use crate::store_error::StoreError;

const HTTPS_PROXY: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const HTTP_PROXY: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxy for a server that is spoken to by `scheme`: that of `HTTPS_PROXY` for `https`, that of
/// `HTTP_PROXY` for `http`, each also in lower case. `None` if there is none, the server is on this
/// host (`localhost`, a loopback number), or `NO_PROXY` excludes it. Reads the environment.
///
/// Fails with [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) when the variable cannot be
/// read as a proxy's URL.
pub fn from_environment(scheme: &str, host: &str, port: u16) -> Result<Option<Proxy>, StoreError> {
    choose(&|name| std::env::var(name).ok(), scheme, host, port)
}

pub(super) fn choose(
    variable: &dyn Fn(&str) -> Option<String>,
    scheme: &str,
    host: &str,
    port: u16,
) -> Result<Option<Proxy>, StoreError> {
    let first = |names: [&'static str; 2]| {
        let set = names.map(|name| Some((name, variable(name)?)));
        let mut set = set.into_iter().flatten();
        set.find(|(_, value)| !value.is_empty())
    };
    let named = match scheme {
        "https" => first(HTTPS_PROXY),
        // A request to a CGI program sets HTTP_PROXY by its header `Proxy`.
        "http" if variable("REQUEST_METHOD").is_none() => first(HTTP_PROXY),
        _ => None,
    };
    let Some((setting, text)) = named else {
        return Ok(None);
    };
    let excluded = first(NO_PROXY).map(|(_, list)| list).unwrap_or_default();
    if is_direct(&excluded, host, port) {
        return Ok(None);
    }
    let mut proxy = Proxy::parse(setting, &text)?;
    proxy.of_environment = true;
    Ok(Some(proxy))
}

/// Whether a server is reached without a proxy when `NO_PROXY` is this list.
fn is_direct(excluded: &str, host: &str, port: u16) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = host.to_ascii_lowercase();
    let number = host
        .parse()
        .ok()
        .map(|number: IpAddr| number.to_canonical());
    if host == "localhost" || number.is_some_and(|number| number.is_loopback()) {
        return true;
    }
    let mut entries = excluded
        .split(',')
        .map(|entry| entry.trim().to_ascii_lowercase());
    entries.any(|entry| excludes(&entry, &host, number, port))
}

/// An entry is `*`, a range of numbers, a number or a name; the last two may have a port.
fn excludes(entry: &str, host: &str, number: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Ok(range) = entry.parse::<IpNet>() {
        return number.is_some_and(|number| range.contains(&number));
    }
    let (name, only) = split(entry);
    if name.is_empty() || only.is_some_and(|only| only.parse() != Ok(port)) {
        return false;
    }
    if let Ok(excluded) = name.parse::<IpAddr>() {
        return number == Some(excluded.to_canonical());
    }
    if number.is_some() {
        return false;
    }
    // `.domain` and `*.domain` are the names below it, `domain` is it and those below it.
    let below = |domain: &str| {
        host.strip_suffix(domain)
            .is_some_and(|rest| rest.ends_with('.'))
    };
    let name = name
        .strip_prefix('*')
        .filter(|rest| rest.starts_with('.'))
        .unwrap_or(name);
    match name.strip_prefix('.') {
        Some(domain) => below(domain),
        None => host == name || below(name),
    }
}

/// `name`, `name:port`, `v6` or `[v6]:port`.
fn split(entry: &str) -> (&str, Option<&str>) {
    if let Some(rest) = entry.strip_prefix('[') {
        let (number, port) = rest.split_once(']').unwrap_or((rest, ""));
        return (number, port.strip_prefix(':'));
    }
    match entry.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        _ => (entry, None),
    }
}
