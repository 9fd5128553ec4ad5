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

/// All features of an address.
pub(crate) type Features = BTreeSet<Feature>;
