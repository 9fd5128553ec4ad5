//! Sets that most often have one element, or a few.

use std::{
    collections::{BTreeSet, btree_set},
    slice,
};

/// Elements that are kept in one sorted piece of memory: it is copied with each change, so it must not be long.
const SHORT: usize = 32;

/// An ordered set. A tree's node has room for eleven elements: with a set of its own for each of 10^5 pods that is most
/// of their memory, so a set of one is kept in place, and one of a few takes what these take.
#[derive(Clone, Debug, Default)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    Short(Box<[T]>),
    Many(BTreeSet<T>),
}

impl<T: Ord> Few<T> {
    pub(crate) fn insert(&mut self, element: T) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(element),
            Self::One(only) if only == element => Self::One(only),
            Self::One(only) if only < element => Self::Short([only, element].into()),
            Self::One(only) => Self::Short([element, only].into()),
            Self::Short(short) => match short.binary_search(&element) {
                Ok(_) => Self::Short(short),
                Err(_) if short.len() == SHORT => Self::Many(short.into_iter().chain([element]).collect()),
                Err(place) => {
                    let mut list = short.into_vec();
                    list.reserve_exact(1);
                    list.insert(place, element);
                    Self::Short(list.into())
                }
            },
            Self::Many(mut many) => {
                many.insert(element);
                Self::Many(many)
            }
        };
    }

    pub(crate) fn remove(&mut self, element: &T) {
        *self = match std::mem::take(self) {
            Self::One(only) if only == *element => Self::None,
            Self::Short(short) => match short.binary_search(element) {
                Ok(place) => {
                    let mut list = short.into_vec();
                    list.remove(place);
                    Self::short(list)
                }
                Err(_) => Self::Short(short),
            },
            Self::Many(mut many) => {
                many.remove(element);
                // well below the length at which it became a tree: one that comes and goes there must not be copied each time
                if many.len() <= SHORT / 2 { Self::short(many.into_iter().collect()) } else { Self::Many(many) }
            }
            same => same,
        };
    }

    /// A sorted list as a set.
    fn short(mut list: Vec<T>) -> Self {
        if list.len() > 1 {
            return Self::Short(list.into());
        }
        list.pop().map_or(Self::None, Self::One)
    }

    pub(crate) fn contains(&self, element: &T) -> bool {
        match self {
            Self::None => false,
            Self::One(only) => only == element,
            Self::Short(short) => short.binary_search(element).is_ok(),
            Self::Many(many) => many.contains(element),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Short(short) => short.len(),
            Self::Many(many) => many.len(),
        }
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.iter().next()
    }

    pub(crate) fn iter(&self) -> Iter<'_, T> {
        match self {
            Self::None => Iter::Short([].iter()),
            Self::One(only) => Iter::Short(slice::from_ref(only).iter()),
            Self::Short(short) => Iter::Short(short.iter()),
            Self::Many(many) => Iter::Many(many.iter()),
        }
    }
}

/// Two sets are the same if they have the same elements, in whatever form.
impl<T: Ord> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<T: Ord> Eq for Few<T> {}

impl<T: Ord> Extend<T> for Few<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, elements: I) {
        elements.into_iter().for_each(|e| self.insert(e));
    }
}

impl<T: Ord> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let all: BTreeSet<T> = elements.into_iter().collect();
        if all.len() > SHORT { Self::Many(all) } else { Self::short(all.into_iter().collect()) }
    }
}

impl<'a, T: Ord> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        let list: Vec<T> = match self {
            Self::None => Vec::new(),
            Self::One(only) => vec![only],
            Self::Short(short) => short.into_vec(),
            Self::Many(many) => many.into_iter().collect(),
        };
        list.into_iter()
    }
}

/// In order.
pub(crate) enum Iter<'a, T> {
    Short(slice::Iter<'a, T>),
    Many(btree_set::Iter<'a, T>),
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        match self {
            Self::Short(short) => short.next(),
            Self::Many(many) => many.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_a_set() {
        for (of, waves) in [(5, 3), (3 * SHORT as u32, 400)] {
            let mut few = Few::default();
            let mut set = BTreeSet::new();
            for i in 0..4000u32 {
                let element = (i * 7) % of;
                if (i / waves) % 2 == 0 {
                    few.insert(element);
                    set.insert(element);
                } else {
                    few.remove(&element);
                    set.remove(&element);
                }
                assert!(few.iter().eq(&set), "{few:?} is not {set:?}");
                assert_eq!((few.is_empty(), few.first(), few.len()), (set.is_empty(), set.first(), set.len()));
                assert_eq!((few.contains(&element), few.contains(&of)), (set.contains(&element), false));
                assert_eq!(few, set.iter().copied().collect());
                assert!(!matches!(&few, Few::Many(m) if m.len() <= SHORT / 2));
                assert!(!matches!(&few, Few::Short(s) if s.len() < 2 || s.len() > SHORT));
            }
        }
    }
}
