//! [`Owner`]: the object that a lock's object belongs to.

use serde_json::{Value, json};
use tenure_core::Error;

/// The object that a lock's object belongs to, in the same namespace: when it is deleted,
/// Kubernetes deletes the lock's object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
}

impl Owner {
    /// For example `apps/v1`, `Deployment`, `web` and its `metadata.uid`.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) if one of them is empty.
    pub fn new(
        api_version: impl Into<String>,
        kind: impl Into<String>,
        name: impl Into<String>,
        uid: impl Into<String>,
    ) -> Result<Self, Error> {
        let owner = Self {
            api_version: api_version.into(),
            kind: kind.into(),
            name: name.into(),
            uid: uid.into(),
        };
        let parts = [&owner.api_version, &owner.kind, &owner.name, &owner.uid];
        if parts.iter().any(|part| part.is_empty()) {
            return Err(Error::invalid_input(
                "an owner needs an API version, a kind, a name and a UID",
            ));
        }
        Ok(owner)
    }

    /// Reads `apps/v1:Deployment:web:UID`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let parts: Vec<_> = text.split(':').collect();
        let [api_version, kind, name, uid] = parts[..] else {
            return Err(Error::invalid_input(
                "the URL's owner has not four parts; use owner=apps/v1:Deployment:name:uid",
            ));
        };
        Self::new(api_version, kind, name, uid)
    }

    /// As it stands in an object.
    pub(crate) fn reference(&self) -> Value {
        json!({
            "apiVersion": self.api_version,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
        })
    }
}
