//! [`Page`]: which of a store's elections are asked for.

use crate::contract::name::LockName;

/// A part of the elections of a store: see
/// [`LockBackend::elections`](crate::LockBackend::elections).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<'a> {
    /// The names begin so.
    pub prefix: &'a str,
    /// They come after this one.
    pub after: Option<&'a LockName>,
    /// How many there are at most.
    pub most: usize,
}

impl<'a> Page<'a> {
    /// The first `most` locks whose names begin with `prefix`.
    pub const fn new(prefix: &'a str, most: usize) -> Self {
        Self {
            prefix,
            after: None,
            most,
        }
    }

    /// Those that follow after `lock`.
    #[must_use]
    pub const fn after(mut self, lock: &'a LockName) -> Self {
        self.after = Some(lock);
        self
    }

    /// Whether it may have this one.
    pub fn may_have(&self, lock: &LockName) -> bool {
        lock.as_str().starts_with(self.prefix) && self.after.is_none_or(|after| lock > after)
    }

    /// Those of all that belong on it, in order.
    pub fn of(&self, all: impl IntoIterator<Item = LockName>) -> Vec<LockName> {
        let mut names: Vec<_> = all.into_iter().filter(|lock| self.may_have(lock)).collect();
        names.sort_unstable();
        names.dedup();
        names.truncate(self.most);
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_in_order() {
        let name = |text: &str| LockName::new(text).unwrap();
        let all = ["b.2", "a", "b.1", "b.3", "b.1", "c"].map(name);
        let first = Page::new("b.", 2).of(all.clone());
        assert_eq!(first, ["b.1", "b.2"].map(name));
        let second = Page::new("b.", 2).after(&first[1]).of(all.clone());
        assert_eq!(second, ["b.3"].map(name));
        assert_eq!(Page::new("", 9).of(all).len(), 5);
    }
}
