//! The last few results of something expensive, so that pictures and calls can share them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;

/// The last few values, each with all that it was made from.
pub(crate) struct Recent<K, V> {
    most: usize,
    /// The latest used comes first.
    entries: Mutex<VecDeque<(K, V)>>,
}

impl<K: PartialEq, V: Clone> Recent<K, V> {
    /// Remembers `most` values.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, entries: Mutex::default() }
    }

    /// The value that was made from the same.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut entries = self.entries();
        let place = entries.iter().position(|(known, _)| known == key)?;
        let entry = entries.remove(place)?;
        let value = entry.1.clone();
        entries.push_front(entry);
        Some(value)
    }

    /// Remembers a value, and forgets the one that was not used for longest.
    pub(crate) fn keep(&self, key: K, value: V) {
        let mut entries = self.entries();
        entries.retain(|(known, _)| *known != key);
        entries.push_front((key, value));
        entries.truncate(self.most);
    }

    /// The remembered value, or a new one. Two threads may both make it.
    pub(crate) fn get_or_make(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<V> {
        if let Some(value) = self.get(&key) {
            return Ok(value);
        }
        let value = make()?;
        self.keep(key, value.clone());
        Ok(value)
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<(K, V)>> {
        // Whoever panicked left whole entries behind.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_not_used_for_longest_is_forgotten() {
        let recent = Recent::new(2);
        recent.keep("a", 1);
        recent.keep("b", 2);
        assert_eq!(recent.get(&"a"), Some(1));
        recent.keep("c", 3);
        assert_eq!(
            [recent.get(&"a"), recent.get(&"b"), recent.get(&"c")],
            [Some(1), None, Some(3)]
        );
    }

    #[test]
    fn a_value_is_made_once() -> Result<()> {
        let recent = Recent::new(2);
        assert_eq!(recent.get_or_make("a", || Ok(1))?, 1);
        assert_eq!(recent.get_or_make("a", || Ok(2))?, 1);
        Ok(())
    }
}
