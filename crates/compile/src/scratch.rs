//! The whole compiler as one plain function: slow, without memory, what the incremental engine must equal.

mod host;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use axoneme_model::{
    Cidr, Identity, Labels, PeerClass, World,
    audit::is_audited,
    cidr,
    rows::{GuardRow, IpRow, RowSet, TableId},
    verdict::{Holder, holder, selects_service},
    world::{Enforcement, Pod, matches_plain},
};

use crate::{
    Assignments, Compiled, Held, PodKey, everywhere,
    feature::{Feature, Features, Property, Reach},
    identity::{identity_labels, names_read},
    ids::Ids,
    peer::{Base, ClassKey, Families, name},
    resolve::Class,
    row,
    rules::{RuleIds, RuleKey, Rules, rule_specs},
    service::service_row,
    spec::{NamedPorts, RuleSpec},
    table::{Context, TableKey, table_ids, table_row},
};

pub use host::hosts;

/// Compiles a world. `held` gives the identity that a pod keeps while its own has no number yet.
#[must_use]
pub fn compile(world: &World, assignments: &Assignments, held: &Held) -> Compiled {
    let rules = rule_specs(world);
    let reads = Reads::of(&rules);
    let pods = identified(world, &reads, assignments, held);
    let members = members(world, &reads);
    let peers = Peers::of(world, &members, &pods);
    let rule_ids = RuleIds::of(rules.values());
    let mut rows = RowSet { rules: rule_ids.rows(rules.values()), identities: row::reserved(), ..RowSet::default() };
    for pod in pods.values() {
        rows.identities.insert(pod.identity, row::identity(pod.identity, &pod.identity_labels));
    }
    rows.ips = ip_rows(world, &members, &peers, &pods);
    let guarded = host::keys(world, &rules);
    let (tables, guards) = tables(world, &rules, (&pods, &guarded), &peers, &rule_ids, &mut rows);
    for (key, pod) in &pods {
        let Some(table) = tables.get(key) else { continue };
        let namespace = world.namespaces.get(&pod.pod.namespace);
        let peer = peers.of_pod(pod);
        let endpoint = row::endpoint(pod.pod, namespace, pod.security.clone(), pod.identity, peer, *table);
        rows.endpoints.insert(pod.pod.uid.clone(), endpoint);
    }
    rows.nodes = world.nodes.values().map(|n| (n.name.clone(), row::node(n))).collect();
    rows.services = world.services.iter().filter_map(|(k, s)| Some((k.clone(), service_row(s)?))).collect();
    let wanted =
        world.pods.values().map(|p| identity_labels(&security(world, p), |n| reads.names.contains(n))).collect();
    Compiled { rows, wanted, guards }
}

fn security(world: &World, pod: &Pod) -> Labels {
    pod.security_labels(world.namespaces.get(&pod.namespace), &world.config.cluster_name)
}

/// What the loaded rules read.
#[derive(Default)]
struct Reads {
    /// Label names of pods.
    names: BTreeSet<Arc<str>>,
    features: Features,
    /// Named ports of peers.
    ports: BTreeSet<Arc<str>>,
}

impl Reads {
    fn of(rules: &Rules) -> Self {
        let mut reads = Self::default();
        for rule in rules.values() {
            reads.names.extend(rule.selectors().flat_map(names_read).cloned());
            reads.features.extend(rule.reads());
            reads.ports.extend(rule.peer_ports().cloned());
        }
        reads
    }

    fn features_of(&self, world: &World, prefix: Cidr, holder: Holder<'_>) -> Features {
        let address = (prefix == cidr::host(prefix.ip())).then(|| prefix.ip());
        let reach = match holder {
            Holder::Node(_) => Reach::Node,
            Holder::Pod(_) => Reach::Pod,
            Holder::Outside => Reach::Outside,
        };
        let has = |feature: &&Feature| match &***feature {
            Property::Cidr(block) => reach.within(block.scope) && block.holds(prefix),
            Property::Nodes(s) => matches!(holder, Holder::Node(n) if matches_plain(s, &n.labels)),
            Property::ApiServer | Property::Service(_) => {
                addresses_of(world, feature).iter().any(|a| Some(*a) == address)
            }
            Property::Port { .. } => false,
        };
        let ports = match holder {
            Holder::Pod(pod) => self.ports_of(pod),
            Holder::Node(_) | Holder::Outside => Features::default(),
        };
        self.features.iter().filter(has).cloned().chain(ports).collect()
    }

    fn ports_of(&self, pod: &Pod) -> Features {
        let bound = pod.named_ports.iter().filter(|(name, _)| self.ports.contains(*name));
        bound
            .flat_map(|(name, ports)| {
                ports.iter().map(|(protocol, port)| {
                    Property::Port { name: name.clone(), protocol: *protocol, port: *port }.into()
                })
            })
            .collect()
    }
}

fn addresses_of(world: &World, feature: &Feature) -> BTreeSet<IpAddr> {
    match &**feature {
        Property::ApiServer => world.apiserver_addresses.clone(),
        Property::Service(s) => {
            let services = world.services.values().filter(|v| selects_service(s, v));
            services.flat_map(|v| v.endpoints.iter().map(|e| e.address)).collect()
        }
        Property::Cidr(_) | Property::Nodes(_) | Property::Port { .. } => BTreeSet::new(),
    }
}

/// A pod that is bound to a node and has an identity.
struct Identified<'w> {
    pod: &'w Pod,
    security: Labels,
    /// What its labels ask for: what rules are matched against.
    labels: Labels,
    identity: Identity,
    identity_labels: Labels,
    ports: Features,
}

fn identified<'w>(
    world: &'w World,
    reads: &Reads,
    assignments: &Assignments,
    held: &Held,
) -> BTreeMap<PodKey, Identified<'w>> {
    let mut pods = BTreeMap::new();
    for (key, pod) in world.pods.iter().filter(|(_, p)| !p.node.is_empty()) {
        let security = security(world, pod);
        let labels = identity_labels(&security, |n| reads.names.contains(n));
        let own = assignments.get(&labels).map(|n| (*n, labels.clone()));
        if let Some((identity, identity_labels)) = own.or_else(|| held.get(key).cloned()) {
            let ports = reads.ports_of(pod);
            pods.insert(key.clone(), Identified { pod, security, labels, identity, identity_labels, ports });
        }
    }
    pods
}

/// An address or prefix with its holder and features.
struct Member<'w> {
    prefix: Cidr,
    holder: Holder<'w>,
    features: Features,
}

fn members<'w>(world: &'w World, reads: &Reads) -> Vec<Member<'w>> {
    let mut held = BTreeSet::new();
    held.extend(world.nodes.values().flat_map(row::addresses));
    held.extend(world.pods.values().filter(|p| !p.node.is_empty()).flat_map(|p| p.addresses.iter().copied()));
    let mut prefixes: BTreeSet<Cidr> = held.into_iter().map(cidr::host).collect();
    prefixes.extend(everywhere());
    for feature in &reads.features {
        prefixes.extend(addresses_of(world, feature).into_iter().map(cidr::host));
        if let Property::Cidr(block) = &**feature {
            prefixes.extend(block.boundaries());
        }
    }
    let member = |prefix: Cidr| {
        let holder = if prefix == cidr::host(prefix.ip()) { holder(world, prefix.ip()) } else { Holder::Outside };
        Member { prefix, holder, features: reads.features_of(world, prefix, holder) }
    };
    prefixes.into_iter().map(member).collect()
}

/// Names and numbers of all peers.
struct Peers {
    keys: HashMap<(Base, Cidr), ClassKey>,
    ids: Ids<ClassKey>,
    classes: BTreeMap<PeerClass, OwnedClass>,
    /// Of each pod with an address, the class of its first one.
    first: BTreeMap<PodKey, PeerClass>,
}

struct OwnedClass {
    base: Base,
    families: Families,
    labels: BTreeSet<Labels>,
    features: Features,
}

impl Peers {
    fn of(world: &World, members: &[Member<'_>], pods: &BTreeMap<PodKey, Identified<'_>>) -> Self {
        let placed: Vec<(&Member<'_>, Base)> =
            members.iter().flat_map(|m| bases_of(world, m, pods).into_iter().map(move |b| (m, b))).collect();
        let mut bases: HashMap<Base, Vec<(Cidr, &Features)>> = HashMap::new();
        for (m, base) in &placed {
            bases.entry(*base).or_default().push((m.prefix, &m.features));
        }
        let named = bases.into_iter().flat_map(|(base, members)| {
            let keys = name(base, &members);
            members.into_iter().map(move |(prefix, _)| (base, prefix)).zip(keys)
        });
        let mut peers =
            Self { keys: named.collect(), ids: crate::class_ids(), classes: BTreeMap::new(), first: BTreeMap::new() };
        let keys: Vec<ClassKey> = placed.iter().filter_map(|(m, b)| peers.key(m, *b).cloned()).collect();
        keys.iter().filter(|k| k.plain().is_none()).for_each(|k| drop(peers.ids.insert(k)));
        for ((m, base), key) in placed.iter().zip(&keys) {
            let id = crate::class_id(&peers.ids, key);
            let class = peers.classes.entry(id).or_insert_with(|| OwnedClass {
                base: *base,
                families: Families::default(),
                labels: BTreeSet::new(),
                features: m.features.clone(),
            });
            class.families.add(m.prefix.is_ipv6());
            if let Holder::Pod(pod) = m.holder {
                let key = (pod.namespace.clone(), pod.name.clone());
                class.labels.extend(pods.get(&key).map(|p| p.labels.clone()));
                peers.first.entry(key).or_insert(id);
            }
        }
        peers.add_pods_to_come(pods);
        peers
    }

    /// A pod that has no address yet goes by its identity's number, so that policy about it is in place when it gets one.
    fn add_pods_to_come(&mut self, pods: &BTreeMap<PodKey, Identified<'_>>) {
        let mut common: BTreeMap<Identity, (Features, BTreeSet<Labels>)> = BTreeMap::new();
        for pod in pods.values() {
            let (features, labels) = common.entry(pod.identity).or_insert_with(|| (pod.ports.clone(), BTreeSet::new()));
            features.retain(|f| pod.ports.contains(f));
            labels.insert(pod.labels.clone());
        }
        for (identity, (features, labels)) in common {
            let families = Families::default();
            let class = OwnedClass { base: Base::Pod(identity), families, labels: BTreeSet::new(), features };
            self.classes.entry(identity.into()).or_insert(class).labels.extend(labels);
        }
    }

    fn classes(&self) -> Vec<Class<'_>> {
        self.classes
            .iter()
            .map(|(id, c)| Class {
                id: *id,
                base: c.base,
                families: c.families,
                labels: c.labels.iter().collect(),
                features: &c.features,
            })
            .collect()
    }

    fn key(&self, member: &Member<'_>, base: Base) -> Option<&ClassKey> {
        self.keys.get(&(base, member.prefix))
    }

    fn class(&self, member: &Member<'_>, base: Base) -> Option<PeerClass> {
        self.key(member, base).map(|k| crate::class_id(&self.ids, k))
    }

    fn of_pod(&self, pod: &Identified<'_>) -> PeerClass {
        let key = (pod.pod.namespace.clone(), pod.pod.name.clone());
        self.first.get(&key).copied().unwrap_or_else(|| pod.identity.into())
    }
}

fn bases_of(world: &World, member: &Member<'_>, pods: &BTreeMap<PodKey, Identified<'_>>) -> Vec<Base> {
    match member.holder {
        Holder::Node(_) => vec![Base::RemoteNode, Base::Host],
        Holder::Pod(pod) => {
            let pod = pods.get(&(pod.namespace.clone(), pod.name.clone()));
            pod.map(|p| Base::Pod(p.identity)).into_iter().collect()
        }
        Holder::Outside => vec![Base::world(world.config.dual_stack_world, member.prefix.is_ipv6())],
    }
}

fn ip_rows(
    world: &World,
    members: &[Member<'_>],
    peers: &Peers,
    pods: &BTreeMap<PodKey, Identified<'_>>,
) -> BTreeMap<Cidr, IpRow> {
    let mut rows = BTreeMap::new();
    for m in members {
        let bases = bases_of(world, m, pods);
        let classes: Vec<PeerClass> = bases.iter().filter_map(|b| peers.class(m, *b)).collect();
        let row = match (m.holder, &*bases, &*classes) {
            (Holder::Node(node), _, [remote, local]) => row::node_ip(m.prefix, node, *remote, *local),
            (Holder::Pod(pod), [base], [class]) => {
                row::pod_ip(m.prefix, pod, world.nodes.get(&pod.node), base.identity(), *class)
            }
            (Holder::Outside, [base], [class]) => row::world_ip(m.prefix, base.identity(), *class),
            _ => continue,
        };
        rows.insert(m.prefix, row);
    }
    rows
}

fn tables(
    world: &World,
    rules: &Rules,
    (pods, guarded): (&BTreeMap<PodKey, Identified<'_>>, &BTreeMap<Arc<str>, TableKey>),
    peers: &Peers,
    rule_ids: &RuleIds,
    rows: &mut RowSet,
) -> (BTreeMap<PodKey, TableId>, BTreeMap<Arc<str>, GuardRow>) {
    let keys: BTreeMap<&PodKey, TableKey> = pods.iter().map(|(k, p)| (k, table_key(world, rules, p))).collect();
    let mut ids = table_ids();
    for key in keys.values().chain(guarded.values()) {
        ids.insert(key);
    }
    let classes = peers.classes();
    let context = Context { config: &world.config, rules, rule_ids, classes: &classes };
    let mut table = |key: &TableKey| {
        let id = ids.get(key).map(TableId)?;
        rows.tables.entry(id).or_insert_with(|| table_row(&context, id, key));
        Some(id)
    };
    let used = keys.iter().filter_map(|(pod, key)| Some(((*pod).clone(), table(key)?))).collect();
    let guards = guarded.iter().filter_map(|(node, key)| Some((node.clone(), host::guard(world, table(key)?))));
    (used, guards.collect())
}

fn table_key(world: &World, rules: &Rules, pod: &Identified<'_>) -> TableKey {
    let enforced = world.config.enforcement != Enforcement::Never;
    let selects = |r: &RuleSpec| r.subject.as_ref().is_some_and(|s| s.matches(&pod.labels));
    let applying: Vec<RuleKey> = rules.iter().filter(|(_, r)| enforced && selects(r)).map(|(k, _)| k.clone()).collect();
    let names: BTreeSet<&Arc<str>> =
        applying.iter().filter_map(|k| rules.get(k)).flat_map(RuleSpec::own_ports).collect();
    let bound = pod.pod.named_ports.iter().filter(|(name, _)| names.contains(name));
    let named_ports: NamedPorts = bound.map(|(name, ports)| (name.clone(), ports.clone())).collect();
    let audit = enforced && is_audited(&world.config, world.namespaces.get(&pod.pod.namespace), pod.pod);
    TableKey { nodes: false, rules: applying, named_ports, audit }
}
