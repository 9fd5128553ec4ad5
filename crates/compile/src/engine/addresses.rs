//! Who holds which address, and what rules read about it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    ops::Bound,
    sync::Arc,
};

use axoneme_model::{
    Cidr, Selector, cidr,
    policy::ServiceSelector,
    verdict::selects_service,
    world::{Node, World, matches_plain},
};

use super::PodRef;
use crate::{
    PodKey,
    changes::Counter,
    everywhere,
    feature::{Block, Feature, Features, Property, Reach},
    few::Few,
};

/// Whose an address is, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Node(Arc<str>),
    Pod(PodRef),
    Outside,
}

impl Owner {
    fn reach(&self) -> Reach {
        match self {
            Self::Node(_) => Reach::Node,
            Self::Pod(_) => Reach::Pod,
            Self::Outside => Reach::Outside,
        }
    }
}

/// What a feature that is read or not any more did.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Prefixes to refresh.
    pub(super) anew: BTreeSet<Cidr>,
    /// Members that have the feature now or lost it, and nothing else.
    pub(super) toggled: Vec<Cidr>,
}

/// An address or a prefix that rows and classes are made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) owner: Owner,
    pub(super) features: Arc<Features>,
}

/// Everyone who says that an address is his.
#[derive(Debug, Default)]
struct Claims {
    nodes: BTreeSet<Arc<str>>,
    pods: Few<PodRef>,
}

/// Who contributes addresses to features that mean sets of addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contributor {
    ApiServer,
    Service(PodKey),
}

#[derive(Debug, Default)]
pub(super) struct Addresses {
    pub(super) members: BTreeMap<Cidr, Member>,
    claims: HashMap<IpAddr, Claims>,
    /// Prefixes that membership of some feature changes at.
    regions: Counter<Cidr>,
    blocks: HashMap<Cidr, BTreeSet<Feature>>,
    /// Prefix lengths of blocks: IPv4, IPv6.
    lengths: [BTreeMap<u8, usize>; 2],
    /// Features of single addresses.
    single: HashMap<IpAddr, BTreeSet<(Contributor, Feature)>>,
    contributions: BTreeMap<Contributor, BTreeSet<(IpAddr, Feature)>>,
    nodes_read: BTreeSet<Selector>,
    services_read: BTreeSet<ServiceSelector>,
    apiserver_read: bool,
    no_features: Arc<Features>,
    /// The prefixes of members by what their holders are: outside, nodes, pods.
    by_reach: [BTreeSet<Cidr>; 3],
}

impl Addresses {
    pub(super) fn new() -> Self {
        let mut new = Self::default();
        for prefix in everywhere() {
            new.regions.add(&prefix);
        }
        new
    }

    pub(super) fn claim_pod(&mut self, address: IpAddr, pod: &PodRef, claims: bool) {
        let entry = self.claims.entry(address).or_default();
        if claims {
            entry.pods.insert(pod.clone());
        } else {
            entry.pods.remove(pod);
        }
        self.drop_unclaimed(address);
    }

    pub(super) fn claim_node(&mut self, address: IpAddr, node: &Arc<str>, claims: bool) {
        let entry = self.claims.entry(address).or_default();
        if claims {
            entry.nodes.insert(node.clone())
        } else {
            entry.nodes.remove(node)
        };
        self.drop_unclaimed(address);
    }

    fn drop_unclaimed(&mut self, address: IpAddr) {
        if self.claims.get(&address).is_some_and(|c| c.nodes.is_empty() && c.pods.is_empty()) {
            self.claims.remove(&address);
        }
    }

    fn owner(&self, prefix: Cidr) -> Owner {
        let address = prefix.ip();
        let claims = self.claims.get(&address).filter(|_| prefix == cidr::host(address));
        match claims.map(|c| (c.nodes.first(), c.pods.first())) {
            Some((Some(node), _)) => Owner::Node(node.clone()),
            Some((None, Some(pod))) => Owner::Pod(pod.clone()),
            Some((None, None)) | None => Owner::Outside,
        }
    }

    /// Starts or stops to tell addresses apart by a feature.
    pub(super) fn read(&mut self, world: &World, feature: &Feature, read: bool) -> Touched {
        let anew = match &**feature {
            Property::Cidr(block) => return self.read_block(feature, block, read),
            Property::Nodes(selector) => {
                if read {
                    self.nodes_read.insert(selector.clone())
                } else {
                    self.nodes_read.remove(selector)
                };
                let nodes = world.nodes.values().filter(|n| matches_plain(selector, &n.labels));
                nodes.flat_map(crate::row::addresses).map(cidr::host).collect()
            }
            Property::ApiServer => {
                self.apiserver_read = read;
                self.contribute_apiserver(world)
            }
            Property::Service(selector) => {
                if read {
                    self.services_read.insert(selector.clone())
                } else {
                    self.services_read.remove(selector)
                };
                let keys = world.services.iter().filter(|(_, s)| selects_service(selector, s)).map(|(k, _)| k.clone());
                keys.collect::<Vec<_>>().iter().flat_map(|k| self.contribute_service(world, k)).collect()
            }
            Property::Port { .. } => BTreeSet::new(),
        };
        Touched { anew, toggled: vec![] }
    }

    fn read_block(&mut self, feature: &Feature, block: &Block, read: bool) -> Touched {
        let known = self.blocks.get(&block.cidr).is_some_and(|b| b.contains(feature));
        if known == read {
            return Touched::default();
        }
        let [v4, v6] = &mut self.lengths;
        let lengths = if block.cidr.is_ipv4() { v4 } else { v6 };
        let count = lengths.entry(block.cidr.prefix()).or_default();
        if read {
            *count += 1;
            self.blocks.entry(block.cidr).or_default().insert(feature.clone());
            for boundary in block.boundaries() {
                self.regions.add(&boundary);
            }
        } else {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&block.cidr.prefix());
            }
            if let Some(blocks) = self.blocks.get_mut(&block.cidr) {
                blocks.remove(feature);
                if blocks.is_empty() {
                    self.blocks.remove(&block.cidr);
                }
            }
            for boundary in block.boundaries() {
                self.regions.sub(&boundary);
            }
        }
        let toggled = self.held_by(block);
        for prefix in &toggled {
            let Some(member) = self.members.get_mut(prefix) else { continue };
            let features = Arc::make_mut(&mut member.features);
            if read {
                features.insert(feature.clone());
            } else {
                features.remove(feature);
            }
        }
        Touched { anew: block.boundaries().collect(), toggled }
    }

    /// The members that a block means.
    fn held_by(&self, block: &Block) -> Vec<Cidr> {
        let last = cidr::host(block.cidr.broadcast());
        let mut held = vec![];
        for (reach, prefixes) in [Reach::Outside, Reach::Node, Reach::Pod].into_iter().zip(&self.by_reach) {
            if !reach.within(block.scope) {
                continue;
            }
            let mut from = Bound::Included(Cidr::new(block.cidr.network(), 0).unwrap_or(block.cidr));
            // exceptions may be full of addresses: jump over them
            while let Some(prefix) = prefixes.range((from, Bound::Included(last))).next() {
                let except = block.except.iter().find(|e| cidr::contains(**e, *prefix));
                from = Bound::Excluded(except.map_or(*prefix, |e| cidr::host(e.broadcast())));
                if except.is_none() && cidr::contains(block.cidr, *prefix) {
                    held.push(*prefix);
                }
            }
        }
        held
    }

    /// Brings the contribution of the API server's addresses up to date.
    pub(super) fn contribute_apiserver(&mut self, world: &World) -> BTreeSet<Cidr> {
        let addresses = world.apiserver_addresses.iter().filter(|_| self.apiserver_read);
        let now = addresses.map(|a| (*a, Property::ApiServer.into())).collect();
        self.contribute(Contributor::ApiServer, now)
    }

    /// Brings the contribution of a Service up to date.
    pub(super) fn contribute_service(&mut self, world: &World, key: &PodKey) -> BTreeSet<Cidr> {
        let mut now = BTreeSet::new();
        if let Some(service) = world.services.get(key) {
            for selector in self.services_read.iter().filter(|s| selects_service(s, service)) {
                now.extend(service.endpoints.iter().map(|e| (e.address, Property::Service(selector.clone()).into())));
            }
        }
        self.contribute(Contributor::Service(key.clone()), now)
    }

    fn contribute(&mut self, who: Contributor, now: BTreeSet<(IpAddr, Feature)>) -> BTreeSet<Cidr> {
        let before = self.contributions.remove(&who).unwrap_or_default();
        for (address, feature) in before.difference(&now) {
            self.regions.sub(&cidr::host(*address));
            if let Some(single) = self.single.get_mut(address) {
                single.remove(&(who.clone(), feature.clone()));
                if single.is_empty() {
                    self.single.remove(address);
                }
            }
        }
        for (address, feature) in now.difference(&before) {
            self.regions.add(&cidr::host(*address));
            self.single.entry(*address).or_default().insert((who.clone(), feature.clone()));
        }
        let touched = before.symmetric_difference(&now).map(|(a, _)| cidr::host(*a)).collect();
        if !now.is_empty() {
            self.contributions.insert(who, now);
        }
        touched
    }

    /// Makes the member at a prefix what it has to be and returns what it was. `ports`: the named-port features of the
    /// pod that holds it.
    pub(super) fn refresh(
        &mut self,
        world: &World,
        prefix: Cidr,
        ports: impl Fn(&PodRef) -> Features,
    ) -> (Option<Member>, Option<Member>) {
        let owner = self.owner(prefix);
        let now = (owner != Owner::Outside || self.regions.contains(&prefix)).then(|| {
            let mut features = self.features_of(world, prefix, &owner);
            if let Owner::Pod(pod) = &owner {
                features.extend(ports(pod));
            }
            let features = if features.is_empty() { self.no_features.clone() } else { Arc::new(features) };
            Member { owner, features }
        });
        let before = match &now {
            Some(member) => self.members.insert(prefix, member.clone()),
            None => self.members.remove(&prefix),
        };
        for (member, present) in before.iter().map(|m| (m, false)).chain(now.iter().map(|m| (m, true))) {
            let [outside, nodes, pods] = &mut self.by_reach;
            let prefixes = match member.owner.reach() {
                Reach::Outside => outside,
                Reach::Node => nodes,
                Reach::Pod => pods,
            };
            if present {
                prefixes.insert(prefix)
            } else {
                prefixes.remove(&prefix)
            };
        }
        (before, now)
    }

    fn features_of(&self, world: &World, prefix: Cidr, owner: &Owner) -> Features {
        let address = prefix.ip();
        let mut features = vec![];
        if prefix == cidr::host(address) {
            features.extend(self.single.get(&address).into_iter().flatten().map(|(_, f)| f.clone()));
        }
        let reach = owner.reach();
        let [v4, v6] = &self.lengths;
        let lengths = if prefix.is_ipv4() { v4 } else { v6 };
        for length in lengths.range(..=prefix.prefix()).map(|(l, _)| *l) {
            let wider = Cidr::new(address, length).map(cidr::normalise);
            let blocks = wider.ok().and_then(|c| self.blocks.get(&c)).into_iter().flatten();
            let holds = |f: &&Feature| match &***f {
                Property::Cidr(block) => reach.within(block.scope) && block.holds(prefix),
                _ => false,
            };
            features.extend(blocks.filter(holds).cloned());
        }
        if let Owner::Node(name) = owner {
            features.extend(self.node_features(world.nodes.get(name)));
        }
        features.into_iter().collect()
    }

    fn node_features(&self, node: Option<&Node>) -> Features {
        let matching = self.nodes_read.iter().filter(|s| node.is_some_and(|n| matches_plain(s, &n.labels)));
        matching.cloned().map(Property::Nodes).map(Feature::from).collect()
    }
}
