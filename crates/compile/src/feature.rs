//! What policy can tell apart about an address beside the identity of who holds it.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

use axoneme_model::{
    Cidr, Protocol, Selector, cidr,
    policy::{CidrScope, ServiceSelector},
};

/// A property of an address that some loaded rule reads. Clones are cheap: an address in a hundred blocks has a hundred.
#[derive(Clone, Debug)]
pub(crate) struct Feature(Arc<(u64, Property)>);

impl Feature {
    /// A number that equal features share. Good for telling sets of features apart quickly, not for names.
    pub(crate) fn mark(&self) -> u64 {
        self.0.0
    }
}

impl From<Property> for Feature {
    fn from(property: Property) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        property.hash(&mut hasher);
        Self(Arc::new((hasher.finish(), property)))
    }
}

impl Deref for Feature {
    type Target = Property;

    fn deref(&self) -> &Property {
        &self.0.1
    }
}

impl PartialEq for Feature {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Feature {}

impl PartialOrd for Feature {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Feature {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { (**self).cmp(other) }
    }
}

impl Hash for Feature {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

/// What a [`Feature`] says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Property {
    /// In the prefix and in none of the exceptions, as far as the scope reaches.
    Cidr(Block),
    /// One of the API server's addresses.
    ApiServer,
    /// Address of a backend of such a Service.
    Service(ServiceSelector),
    /// Address of a node with such labels.
    Nodes(Selector),
    /// The pod binds a named port that an egress rule reads.
    Port { name: Arc<str>, protocol: Protocol, port: u16 },
}

/// A prefix with exceptions in canonical form: no host bits, exceptions inside, sorted, none within another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Block {
    pub(crate) cidr: Cidr,
    pub(crate) except: Vec<Cidr>,
    pub(crate) scope: CidrScope,
}

impl Block {
    /// None where the exceptions leave nothing, or the whole prefix is an exception.
    pub(crate) fn new(cidr: Cidr, except: &[Cidr], scope: CidrScope) -> Option<Self> {
        let cidr = cidr::normalise(cidr);
        let except: BTreeSet<Cidr> = except.iter().map(|e| cidr::normalise(*e)).collect();
        if except.iter().any(|e| cidr::contains(*e, cidr)) {
            return None;
        }
        let widest = |e: &&Cidr| !except.iter().any(|o| o != *e && cidr::contains(*o, **e));
        let except = except.iter().filter(|e| cidr::contains(cidr, **e)).filter(widest).copied().collect();
        Some(Self { cidr, except, scope })
    }

    /// Whether all of the prefix is in. Only right for prefixes that no boundary of the block cuts.
    pub(crate) fn holds(&self, prefix: Cidr) -> bool {
        cidr::contains(self.cidr, prefix) && !self.except.iter().any(|e| cidr::contains(*e, prefix))
    }

    /// The prefixes at which membership changes.
    pub(crate) fn boundaries(&self) -> impl Iterator<Item = Cidr> {
        std::iter::once(self.cidr).chain(self.except.iter().copied())
    }
}

/// What the holder of an address is, as far as CIDR rules care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reach {
    Outside,
    Node,
    Pod,
}

impl Reach {
    pub(crate) fn within(self, scope: CidrScope) -> bool {
        match (self, scope) {
            (Self::Outside, _) | (_, CidrScope::Anyone) => true,
            (Self::Node, s) => s == CidrScope::OutsideAndNodes,
            (Self::Pod, _) => false,
        }
    }
}

/// All features of an address: sorted, in one piece of memory, because there may be hundreds and they are compared often.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Features(Vec<Feature>);

impl Features {
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Feature> {
        self.0.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, feature: &Feature) -> bool {
        self.0.binary_search(feature).is_ok()
    }

    pub(crate) fn insert(&mut self, feature: Feature) {
        if let Err(place) = self.0.binary_search(&feature) {
            self.0.insert(place, feature);
        }
    }

    pub(crate) fn remove(&mut self, feature: &Feature) {
        if let Ok(place) = self.0.binary_search(feature) {
            self.0.remove(place);
        }
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Feature) -> bool) {
        self.0.retain(keep);
    }

    /// What is in the one but not in the other: in self, in other.
    pub(crate) fn differences<'a>(&'a self, other: &'a Self) -> (Vec<&'a Feature>, Vec<&'a Feature>) {
        let (mut mine, mut theirs) = (vec![], vec![]);
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let order = match (a.peek(), b.peek()) {
                (Some(x), Some(y)) => x.cmp(y),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return (mine, theirs),
            };
            if order != Ordering::Greater {
                let x = a.next();
                mine.extend(x.filter(|_| order == Ordering::Less));
            }
            if order != Ordering::Less {
                let y = b.next();
                theirs.extend(y.filter(|_| order == Ordering::Greater));
            }
        }
    }
}

impl FromIterator<Feature> for Features {
    fn from_iter<T: IntoIterator<Item = Feature>>(iter: T) -> Self {
        let mut features: Vec<Feature> = iter.into_iter().collect();
        features.sort_unstable();
        features.dedup();
        Self(features)
    }
}

impl Extend<Feature> for Features {
    fn extend<T: IntoIterator<Item = Feature>>(&mut self, iter: T) {
        iter.into_iter().for_each(|f| self.insert(f));
    }
}

impl IntoIterator for Features {
    type Item = Feature;
    type IntoIter = std::vec::IntoIter<Feature>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Features {
    type Item = &'a Feature;
    type IntoIter = std::slice::Iter<'a, Feature>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
