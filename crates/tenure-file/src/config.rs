//! Which directory, checked before any I/O.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use tenure_core::Error;
use tenure_kit::Url;

use crate::trust;

/// Where the locks of a [`FileBackend`](crate::FileBackend) are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileConfig {
    directory: PathBuf,
    create: bool,
    group: Option<String>,
}

impl FileConfig {
    /// The locks in `directory`, an absolute path: with a relative one, two processes started in
    /// different places would elect a leader each. No I/O yet.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) on a path that is
    /// relative, the root directory, or holds a NUL.
    pub fn new(directory: impl Into<PathBuf>) -> Result<Self, Error> {
        let directory = directory.into();
        let problem = if directory.as_os_str().is_empty() {
            "is empty"
        } else if !directory.is_absolute() {
            "is relative, so it would mean another place in each process"
        } else if directory.file_name().is_none() {
            "is the root directory, or ends in \"..\""
        } else if directory.as_os_str().as_bytes().contains(&0) {
            "holds a NUL character"
        } else {
            return Ok(Self {
                directory,
                create: true,
                group: None,
            });
        };
        // Escaped, to keep control characters of bad input out of terminals and logs.
        let shown = directory.as_os_str().to_string_lossy();
        Err(Error::invalid_input(format!(
            "the directory \"{}\" {problem}; use an absolute path like \
             /var/lib/my-service/locks",
            shown.escape_debug()
        )))
    }

    /// Reads a URL: `file:///var/lib/my-service/locks`. No I/O yet.
    ///
    /// Characters outside ASCII, spaces, `%`, `?` and `#` are percent-encoded. The query
    /// parameters are `create=true|false`, see [`create`](Self::create), and `group=NAME`, see
    /// [`group`](Self::group). The host must be empty or `localhost`.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), and says what is wrong.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::from_parsed(Url::parse(url)?)
    }

    /// The same of a URL that is taken apart already.
    pub fn from_parsed(mut url: Url) -> Result<Self, Error> {
        let bad = |problem: &str| {
            Error::invalid_input(format!("the URL {problem}; use file:///absolute/directory"))
        };
        if url.scheme() != "file" {
            return Err(bad("does not start with file:"));
        }
        if url.user().is_some() || url.password().is_some() {
            return Err(bad("has a user, which a directory has not"));
        }
        match url.hosts() {
            [] => {}
            [host] if host.eq_ignore_ascii_case("localhost") => {}
            _ => {
                return Err(bad(
                    "names a host; a directory is shared by the processes of one host only, and \
                     an absolute path needs three slashes",
                ));
            }
        }
        if !url.raw_path().starts_with('/') {
            return Err(bad("holds no absolute path"));
        }
        let mut config = Self::new(decode(url.raw_path()).map_err(bad)?)?;
        if let Some(create) = url.take_switch("create")? {
            config.create = create;
        }
        if let Some(group) = url.take("group")? {
            config = config.group(group)?;
        }
        url.finish()?;
        Ok(config)
    }

    /// Whether the directory is created, with its parents, when it does not exist; it is by
    /// default. Say `false` where its absence means that something is not mounted yet.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Shares the locks with the members of a group: a name in `/etc/group`, or a number.
    /// Directories are then made with the mode 2770 and files with 0660; without it 0700 and 0600,
    /// whatever the umask. All candidates have to name the same group.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) on what cannot be a
    /// group's name. No I/O yet: it is looked up with the first operation.
    pub fn group(mut self, name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        trust::check_group_name(&name)?;
        self.group = Some(name);
        Ok(self)
    }

    /// The group that the locks are shared with.
    pub fn group_name(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether a missing directory is created.
    pub fn creates(&self) -> bool {
        self.create
    }
}

fn decode(path: &str) -> Result<PathBuf, &'static str> {
    let mut rest = path.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let digits = rest.get(at + 1..at + 3).unwrap_or_default();
        if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err("has a '%' that no two hexadecimal digits follow; write it as %25");
        }
        rest = &rest[at + 3..];
    }
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use tenure_core::ErrorKind;

    use super::*;

    #[test]
    fn urls_with_an_absolute_path_are_read() {
        for (url, expected) in [
            ("file:///var/locks", "/var/locks"),
            ("file:/var/locks", "/var/locks"),
            ("FILE://localhost/var/locks/", "/var/locks/"),
            ("file:///with%20space/100%25", "/with space/100%"),
            ("file:///gr%C3%BCn", "/grün"),
            ("file:///a%3Fb%23c", "/a?b#c"),
        ] {
            let config = FileConfig::from_url(url).unwrap();
            assert_eq!(config.directory(), Path::new(expected), "{url}");
            assert!(config.creates());
        }
        let config = FileConfig::from_url("file:///a?create=false").unwrap();
        assert!(!config.creates());
        assert_eq!(config.directory(), Path::new("/a"));
        let odd = FileConfig::from_url("file:///%FF").unwrap();
        assert_eq!(odd.directory().as_os_str().as_bytes(), b"/\xff");
    }

    #[test]
    fn other_urls_are_refused_with_what_is_wrong() {
        for (url, expected) in [
            ("", "scheme"),
            ("redis://host", "file:"),
            ("/var/locks", "scheme"),
            ("file:relative/dir", "absolute"),
            ("file://", "absolute"),
            ("file://dir", "three slashes"),
            ("file://host/dir", "host"),
            ("file://./dir", "host"),
            ("file:///", "root directory"),
            ("file:///a/..", "\"..\""),
            ("file:///a#b", "%23"),
            ("file://user@localhost/a", "user"),
            ("file:///a%", "%25"),
            ("file:///a%2", "%25"),
            ("file:///a%zz", "%25"),
            ("file:///a%00b", "NUL"),
            ("file:///a?crate=true", "parameter"),
            ("file:///a?create=yes", "parameter"),
            ("file:///a?group=", "group"),
            ("file:///a?group=a:b", "group"),
        ] {
            let error = FileConfig::from_url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{url}");
            assert!(error.message().contains(expected), "{url}: {error}");
        }
    }

    #[test]
    fn relative_paths_are_refused() {
        for path in ["", "locks", "./locks", "../locks"] {
            let error = FileConfig::new(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
}
