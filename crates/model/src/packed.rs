//! Small ordered maps and sets of which a large cluster has hundreds of thousands.
//!
//! One sorted piece of memory that clones share. A tree has room for eleven elements in its smallest node, so that a set
//! of one address takes 216 bytes as a tree and 48 here. To change one is to copy it: they are made once and read often.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::Hash,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An ordered map; at most one value a key. Equal maps hash, compare and print as a [`BTreeMap`] of the same content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedMap<K, V>(Arc<[(K, V)]>);

/// An ordered set. Equal sets hash, compare and print as a [`BTreeSet`] of the same content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedSet<T>(Arc<[T]>);

impl<K, V> PackedMap<K, V> {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order of keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + ExactSizeIterator + Clone {
        self.0.iter().map(pair as fn(&(K, V)) -> (&K, &V))
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + ExactSizeIterator + Clone {
        self.iter().map(|(k, _)| k)
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator + Clone {
        self.iter().map(|(_, v)| v)
    }

    /// How many maps share the memory.
    #[must_use]
    pub fn owners(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Whether both are the same piece of memory.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

const fn pair<K, V>(entry: &(K, V)) -> (&K, &V) {
    (&entry.0, &entry.1)
}

impl<K: Ord, V> PackedMap<K, V> {
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let place = self.0.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        self.0.get(place).map(|(_, v)| v)
    }

    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }
}

impl<K: Ord + Clone, V: Clone> PackedMap<K, V> {
    /// Puts the value in place of what was there. Copies the map: many entries are better collected.
    pub fn insert(&mut self, key: K, value: V) {
        *self = self.0.iter().cloned().chain([(key, value)]).collect();
    }

    /// Copies the map.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if self.contains_key(key) {
            self.0 = self.0.iter().filter(|(k, _)| k.borrow() != key).cloned().collect();
        }
    }

    /// Only the entries that the predicate keeps.
    #[must_use]
    pub fn filtered(&self, mut keep: impl FnMut(&K, &V) -> bool) -> Self {
        Self(self.0.iter().filter(|(k, v)| keep(k, v)).cloned().collect())
    }
}

impl<K, V> Default for PackedMap<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for PackedMap<K, V> {
    /// Of entries with one key the last counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<(K, V)> = entries.into_iter().collect();
        if entries.is_empty() {
            return Self::default();
        }
        // stable: what came later stands behind
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        Self(entries.into())
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for PackedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord, V> From<BTreeMap<K, V>> for PackedMap<K, V> {
    fn from(map: BTreeMap<K, V>) -> Self {
        map.into_iter().collect()
    }
}

impl<K: Clone, V: Clone> IntoIterator for PackedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        Vec::from(&*self.0).into_iter()
    }
}

impl<'a, K, V> IntoIterator for &'a PackedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(pair as fn(&'a (K, V)) -> (&'a K, &'a V))
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for PackedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Serialize, V: Serialize> Serialize for PackedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for PackedMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

impl<T> PackedSet<T> {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn first(&self) -> Option<&T> {
        self.0.first()
    }

    /// In order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

impl<T: Ord> PackedSet<T> {
    #[must_use]
    pub fn contains<Q: Ord + ?Sized>(&self, element: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.0.binary_search_by(|e| e.borrow().cmp(element)).is_ok()
    }
}

impl<T: Ord + Clone> PackedSet<T> {
    /// Copies the set: many elements are better collected.
    pub fn insert(&mut self, element: T) {
        if !self.contains(&element) {
            *self = self.0.iter().cloned().chain([element]).collect();
        }
    }

    /// Copies the set.
    pub fn remove<Q: Ord + ?Sized>(&mut self, element: &Q)
    where
        T: Borrow<Q>,
    {
        if self.contains(element) {
            self.0 = self.0.iter().filter(|e| (*e).borrow() != element).cloned().collect();
        }
    }
}

impl<T> Default for PackedSet<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Ord> FromIterator<T> for PackedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut elements: Vec<T> = elements.into_iter().collect();
        if elements.is_empty() {
            return Self::default();
        }
        elements.sort();
        elements.dedup();
        Self(elements.into())
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for PackedSet<T> {
    fn from(elements: [T; N]) -> Self {
        elements.into_iter().collect()
    }
}

impl<T: Ord> From<BTreeSet<T>> for PackedSet<T> {
    fn from(set: BTreeSet<T>) -> Self {
        set.into_iter().collect()
    }
}

impl<'a, T> IntoIterator for &'a PackedSet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: Clone> IntoIterator for PackedSet<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        Vec::from(&*self.0).into_iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for PackedSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<T: Serialize> Serialize for PackedSet<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de, T: Deserialize<'de> + Ord> Deserialize<'de> for PackedSet<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeSet::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use super::*;

    fn hashed(value: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        hasher.finish()
    }

    /// Ids of tables and identities are digests of what these hash to: they must not change with the form.
    #[test]
    fn what_is_packed_is_what_a_tree_is() {
        let mut tree = BTreeMap::new();
        let mut packed = PackedMap::new();
        let (mut trees, mut packs) = (BTreeSet::new(), PackedSet::new());
        let mut state = 7u32;
        for _ in 0..60 {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let (key, value) = ((state >> 16) % 12, state >> 27);
            if state.is_multiple_of(5) {
                tree.remove(&key);
                packed.remove(&key);
                trees.remove(&value);
                packs.remove(&value);
            } else {
                tree.insert(key, value);
                packed.insert(key, value);
                trees.insert(value);
                packs.insert(value);
            }
            assert!(packed.iter().eq(&tree) && packed.keys().eq(tree.keys()) && packed.values().eq(tree.values()));
            assert!((0..12).all(|k| packed.get(&k) == tree.get(&k)));
            assert!(
                packs.iter().eq(&trees)
                    && packs.first() == trees.first()
                    && packs.contains(&value) == trees.contains(&value)
            );
            assert_eq!((hashed(&packed), hashed(&packs)), (hashed(&tree), hashed(&trees)));
            assert_eq!((format!("{packed:?}"), format!("{packs:?}")), (format!("{tree:?}"), format!("{trees:?}")));
            assert_eq!((&packed, &packs), (&tree.clone().into(), &trees.clone().into()));
        }
        assert!(tree.len() > 4 && trees.len() > 10);
    }

    #[test]
    fn of_one_key_the_last_value_counts_and_clones_share() {
        let map: PackedMap<&str, u8> = [("b", 1), ("a", 2), ("b", 3)].into();
        assert_eq!(format!("{map:?}"), r#"{"a": 2, "b": 3}"#);
        assert!(map.clone().is_shared_with(&map));
        assert_eq!(map.filtered(|_, v| *v == 3).len(), 1);
        let text = serde_json::to_string(&map).unwrap();
        assert_eq!(text, r#"{"a":2,"b":3}"#);
        let back: PackedMap<String, u8> = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }
}
