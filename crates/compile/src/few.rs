//! Sets that most often have one element.

use std::collections::{BTreeSet, btree_set};

/// An ordered set. A tree's node has room for eleven elements: with a set of its own for each of 10^5 pods that is most
/// of their memory, so a set of one is kept in place.
#[derive(Clone, Debug, Default)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    Many(BTreeSet<T>),
}

impl<T: Ord> Few<T> {
    pub(crate) fn insert(&mut self, element: T) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(element),
            Self::One(only) if only == element => Self::One(only),
            Self::One(only) => Self::Many(BTreeSet::from([only, element])),
            Self::Many(mut many) => {
                many.insert(element);
                Self::Many(many)
            }
        };
    }

    pub(crate) fn remove(&mut self, element: &T) {
        match self {
            Self::One(only) if only == element => *self = Self::None,
            Self::None | Self::One(_) => {}
            Self::Many(many) => {
                many.remove(element);
                if many.len() < 2 {
                    *self = many.pop_first().map_or(Self::None, Self::One);
                }
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.iter().next()
    }

    pub(crate) fn iter(&self) -> Iter<'_, T> {
        match self {
            Self::None => Iter::One(None),
            Self::One(only) => Iter::One(Some(only)),
            Self::Many(many) => Iter::Many(many.iter()),
        }
    }
}

impl<'a, T: Ord> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// In order.
pub(crate) enum Iter<'a, T> {
    One(Option<&'a T>),
    Many(btree_set::Iter<'a, T>),
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        match self {
            Self::One(only) => only.take(),
            Self::Many(many) => many.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_a_set() {
        let mut few = Few::default();
        let mut set = BTreeSet::new();
        for i in 0..400u32 {
            let element = (i * 7) % 5;
            if (i / 3) % 2 == 0 {
                few.insert(element);
                set.insert(element);
            } else {
                few.remove(&element);
                set.remove(&element);
            }
            assert!(few.iter().eq(&set), "{few:?} is not {set:?}");
            assert_eq!((few.is_empty(), few.first()), (set.is_empty(), set.first()));
            assert!(!matches!(&few, Few::Many(m) if m.len() < 2));
        }
    }
}
