//! Elections that exist already, under a key of their store that is no lock name.

use tenure_core::{Error, LockName};

use crate::url::{LOCK_KEY, Url};

/// The keys that an application has given to some of its locks, instead of those that a backend
/// makes of their names. No two locks have one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockKeys<K>(Vec<(LockName, K)>);

impl<K> Default for LockKeys<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq> LockKeys<K> {
    /// Gives `lock` this key; a key that it had before is forgotten.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when `meet` says of the
    /// key of another lock that the two are not apart at the store.
    pub fn insert(
        &mut self,
        lock: LockName,
        key: K,
        meet: impl Fn(&K, &K) -> bool,
    ) -> Result<(), Error> {
        self.0.retain(|(other, _)| *other != lock);
        if let Some((other, _)) = self.0.iter().find(|(_, known)| meet(known, &key)) {
            return Err(one_key(&lock, other));
        }
        self.0.push((lock, key));
        Ok(())
    }

    /// The key that was given to this lock, if any.
    pub fn get(&self, lock: &LockName) -> Option<&K> {
        let found = self.0.iter().find(|(known, _)| known == lock);
        found.map(|(_, key)| key)
    }

    /// The lock that was given this key.
    pub fn lock_of(&self, key: &K) -> Option<&LockName> {
        let found = self.0.iter().find(|(_, known)| known == key);
        found.map(|(lock, _)| lock)
    }

    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when `lock`, whose name
    /// makes `key`, would meet a lock that was given its key: two names would mean one election.
    pub fn check(
        &self,
        lock: &LockName,
        key: &K,
        meet: impl Fn(&K, &K) -> bool,
    ) -> Result<(), Error> {
        let others = self.0.iter().filter(|(other, _)| other != lock);
        match others.into_iter().find(|(_, known)| meet(known, key)) {
            Some((other, _)) => Err(one_key(lock, other)),
            None => Ok(()),
        }
    }

    /// The keys that were given.
    pub fn iter(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(_, key)| key)
    }

    /// Whether no lock was given a key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn one_key(one: &LockName, other: &LockName) -> Error {
    Error::invalid_input(format!(
        "the locks {one} and {other} have one key at the store, or the key of one is a part of the \
         other's; use one name for one election, see lock_key"
    ))
}

impl Url {
    /// Takes the parameters `lock_key=LOCK:KEY`: locks, and the keys that they have at the store
    /// instead of those that their names make. The key goes to the end of the value and is not
    /// checked.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when one has no colon or no
    /// lock name.
    pub fn take_lock_keys(&mut self) -> Result<Vec<(LockName, String)>, Error> {
        let read = |text: String| {
            let (lock, key) = text.split_once(':').ok_or_else(|| {
                Error::invalid_input(format!(
                    "the URL's parameter {LOCK_KEY} has no colon; write \
                     {LOCK_KEY}=LOCK:KEY, with a lock name of your choice and the key that the \
                     election has at the store"
                ))
            })?;
            Ok((LockName::new(lock)?, key.to_owned()))
        };
        self.take_all(LOCK_KEY).into_iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(name: &str) -> LockName {
        LockName::new(name).unwrap()
    }

    #[test]
    fn a_key_belongs_to_one_lock() {
        let same = |a: &u8, b: &u8| a == b;
        let mut keys = LockKeys::default();
        keys.insert(lock("a"), 1, same).unwrap();
        keys.insert(lock("a"), 2, same).unwrap();
        keys.insert(lock("b"), 1, same).unwrap();
        assert_eq!(keys.get(&lock("a")), Some(&2));
        assert_eq!(keys.lock_of(&1), Some(&lock("b")));
        let error = keys.insert(lock("c"), 2, same).unwrap_err();
        assert!(error.message().contains("locks c and a"), "{error}");
        assert!(keys.check(&lock("d"), &2, same).is_err());
        assert!(keys.check(&lock("a"), &2, same).is_ok());
        assert!(keys.check(&lock("d"), &3, same).is_ok());
    }

    #[test]
    fn a_url_names_locks_and_keys() {
        let mut url =
            Url::parse("etcd://h?lock_key=job:a%2Fb:c&lock_key=x.y:WantNumberOne").unwrap();
        let expected = [("job", "a/b:c"), ("x.y", "WantNumberOne")];
        let expected = expected.map(|(name, key)| (lock(name), key.to_owned()));
        assert_eq!(url.take_lock_keys().unwrap(), expected);
        url.finish().unwrap();
        for wrong in ["job", "Job:x", ":x"] {
            let mut url = Url::parse(&format!("etcd://h?lock_key={wrong}")).unwrap();
            assert!(url.take_lock_keys().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_store_without_keys_of_its_own_refuses_them_by_name() {
        let url = Url::parse("kube-lease://default?lock_key=job:a").unwrap();
        let error = url.finish().unwrap_err();
        assert!(error.message().contains("lock_key"), "{error}");
        assert!(error.message().contains("kube-lease"), "{error}");
    }
}
