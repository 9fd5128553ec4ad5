use proptest::{collection as many, prelude::*};

use super::*;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn family(cidrs: &[&str], mask_size: u8) -> PoolFamily {
    PoolFamily { cidrs: cidrs.iter().map(|c| cidr(c)).collect(), mask_size }
}

fn settings(mode: IpamMode, ipv4: &[&str], mask: u8) -> Ipam {
    Ipam {
        mode,
        ipv4: Some(family(ipv4, mask)),
        ipv6: None,
        default_pool: "default".into(),
        pre_allocate: BTreeMap::new(),
    }
}

fn pool(name: &str, ipv4: &[&str], mask: u8) -> (Arc<str>, Pool) {
    let spec = PodIpPool {
        name: name.into(),
        ipv4: Some(family(ipv4, mask)),
        ipv6: None,
        allow_first_address: false,
        allow_last_address: false,
        pods: None,
        namespaces: None,
        skip_masquerade: false,
    };
    (name.into(), Pool { spec, created: "2026-01-01T00:00:00Z".into() })
}

fn nodes(names: &[&str]) -> BTreeMap<Arc<str>, NodeState> {
    names.iter().map(|n| (Arc::from(*n), NodeState::default())).collect()
}

/// What the nodes hold after the plan.
fn carry_out(nodes: &mut BTreeMap<Arc<str>, NodeState>, plan: &Plan) {
    for (name, p) in &plan.nodes {
        let n = nodes.get_mut(name).unwrap();
        (n.blocks, n.pools, n.releasing) = (p.blocks.clone(), p.pools.clone(), p.releasing.clone());
        n.released.clear();
    }
}

fn messages(plan: &Plan) -> String {
    plan.problems.iter().map(|p| p.message.clone()).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_node_gets_a_block_of_each_family() {
    let mut s = settings(IpamMode::ClusterPool, &["10.0.0.0/22"], 24);
    s.ipv6 = Some(family(&["fd00::/104"], 120));
    let plan = plan(&s, &BTreeMap::new(), &nodes(&["a", "b"]));
    assert_eq!(plan.nodes["a"].blocks, [cidr("10.0.0.0/24"), cidr("fd00::/120")]);
    assert_eq!(plan.nodes["b"].blocks, [cidr("10.0.1.0/24"), cidr("fd00::100/120")]);
    assert!(plan.problems.is_empty());
}

#[test]
fn a_pool_that_is_too_small_leaves_the_last_node_without_and_says_so() {
    let s = settings(IpamMode::ClusterPool, &["10.0.0.0/25"], 26);
    let plan = plan(&s, &BTreeMap::new(), &nodes(&["a", "b", "c"]));
    assert_eq!(plan.nodes["c"].blocks, []);
    assert_eq!(plan.problems.len(), 1);
    assert!(messages(&plan).contains("no free /26 is left in 10.0.0.0/25"), "{}", messages(&plan));
}

#[test]
fn a_pool_edit_moves_no_block() {
    let mut all = nodes(&["a", "b"]);
    let first = plan(&settings(IpamMode::ClusterPool, &["10.0.0.0/16"], 24), &BTreeMap::new(), &all);
    carry_out(&mut all, &first);
    all.insert("c".into(), NodeState::default());
    let edited = plan(&settings(IpamMode::ClusterPool, &["10.9.0.0/16"], 25), &BTreeMap::new(), &all);
    assert_eq!(edited.nodes["a"].blocks, [cidr("10.0.0.0/24")]);
    assert_eq!(edited.nodes["b"].blocks, [cidr("10.0.1.0/24")]);
    assert_eq!(edited.nodes["c"].blocks, [cidr("10.9.0.0/25")]);
}

#[test]
fn a_pool_that_holds_a_nodes_own_address_gives_nothing() {
    let mut all = nodes(&["a"]);
    all.get_mut("a").unwrap().addresses = vec!["10.0.3.4".parse().unwrap()];
    let s = settings(IpamMode::ClusterPool, &["10.0.0.0/16", "10.1.0.0/16"], 24);
    let plan = plan(&s, &BTreeMap::new(), &all);
    assert_eq!(plan.nodes["a"].blocks, [cidr("10.1.0.0/24")]);
    assert!(messages(&plan).contains("contains the address of node a"));
}

#[test]
fn an_ignored_node_is_left_alone_and_its_blocks_are_taken() {
    let mut all = nodes(&["a", "b"]);
    *all.get_mut("a").unwrap() = NodeState { ignored: true, blocks: vec![cidr("10.0.0.0/24")], ..NodeState::default() };
    let plan = plan(&settings(IpamMode::ClusterPool, &["10.0.0.0/16"], 24), &BTreeMap::new(), &all);
    assert!(!plan.nodes.contains_key("a"));
    assert_eq!(plan.nodes["b"].blocks, [cidr("10.0.1.0/24")]);
}

#[test]
fn two_nodes_with_the_same_block_are_told_and_nobody_is_moved() {
    let mut all = nodes(&["a", "b"]);
    for n in all.values_mut() {
        n.blocks = vec![cidr("10.0.0.0/24")];
    }
    let plan = plan(&settings(IpamMode::ClusterPool, &["10.0.0.0/16"], 24), &BTreeMap::new(), &all);
    assert_eq!(plan.nodes["b"].blocks, [cidr("10.0.0.0/24")]);
    assert!(messages(&plan).contains("overlaps with 10.0.0.0/24 of node a"), "{}", messages(&plan));
}

#[test]
fn kubernetes_mode_mirrors_the_node_object() {
    let mut all = nodes(&["a", "b"]);
    all.get_mut("a").unwrap().kubernetes = vec![cidr("10.7.0.0/24")];
    let plan = plan(&settings(IpamMode::Kubernetes, &["10.0.0.0/16"], 24), &BTreeMap::new(), &all);
    assert_eq!(plan.nodes["a"].blocks, [cidr("10.7.0.0/24")]);
    assert_eq!(plan.nodes["b"].blocks, []);
    assert!(messages(&plan).contains("--allocate-node-cidrs"));
}

#[test]
fn pools_are_filled_to_demand_with_spare_for_the_default() {
    let mut all = nodes(&["a"]);
    all.get_mut("a").unwrap().demand = [("default".into(), [20, 0]), ("blue".into(), [3, 0])].into();
    let pools = [pool("default", &["10.0.0.0/16"], 28), pool("blue", &["10.1.0.0/16"], 30)].into();
    let plan = plan(&settings(IpamMode::MultiPool, &[], 24), &pools, &all);
    // 20 and 8 in store of blocks of 14; 3 of blocks of 2
    assert_eq!(plan.nodes["a"].pools["default"].len(), 2);
    assert_eq!(plan.nodes["a"].pools["blue"].len(), 2);
    assert!(plan.problems.is_empty(), "{}", messages(&plan));
}

#[test]
fn of_overlapping_pools_the_second_is_refused_and_a_missing_one_is_named() {
    let mut all = nodes(&["a"]);
    all.get_mut("a").unwrap().demand =
        [("a-pool".into(), [1, 0]), ("b-pool".into(), [1, 0]), ("none".into(), [1, 0])].into();
    let pools = [pool("a-pool", &["10.0.0.0/16"], 24), pool("b-pool", &["10.0.128.0/17"], 24)].into();
    let plan = plan(&settings(IpamMode::MultiPool, &[], 24), &pools, &all);
    assert_eq!(plan.nodes["a"].pools["a-pool"], [cidr("10.0.0.0/24")]);
    assert!(!plan.nodes["a"].pools.contains_key("b-pool"));
    let all = messages(&plan);
    assert!(all.contains("overlaps with 10.0.0.0/16 of CiliumPodIPPool a-pool"), "{all}");
    assert!(all.contains("CiliumPodIPPool none, which does not exist"), "{all}");
}

#[test]
fn the_edges_of_the_address_space_are_no_edge_cases() {
    let mut b = Blocks::default();
    assert_eq!(b.first_free(cidr("255.255.255.254/31"), 32), Some(cidr("255.255.255.254/32")));
    b.insert(cidr("255.255.255.254/31"));
    assert_eq!(b.first_free(cidr("255.255.255.254/31"), 32), None);
    b.insert(cidr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"));
    assert_eq!(b.first_free(cidr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"), 128), None);
    assert_eq!(b.first_free(cidr("::/0"), 0), None, "not a block that any node could use");
    assert_eq!(b.first_free(cidr("10.0.0.0/24"), 16), None);
}

proptest! {
    /// Whatever the history of edits, joins and leaves: nothing is allocated twice, nothing moves, and a second look at
    /// the same state changes nothing.
    #[test]
    fn nothing_is_allocated_twice_and_nothing_moves(
        steps in many::vec((0..4usize, 24..=28u8, many::btree_set("[a-h]", 1..8)), 1..12)
    ) {
        let prefixes = ["10.0.0.0/22", "10.0.2.0/23", "10.1.0.0/24", "10.0.0.0/16"];
        let mut all: BTreeMap<Arc<str>, NodeState> = BTreeMap::new();
        for (pool, mask, present) in steps {
            all.retain(|n, _| present.contains(&**n));
            for n in &present {
                all.entry(n.as_str().into()).or_default();
            }
            let s = settings(IpamMode::ClusterPool, &[prefixes[pool]], mask);
            let before = all.clone();
            let p = plan(&s, &BTreeMap::new(), &all);
            carry_out(&mut all, &p);
            for (name, node) in &before {
                for block in &node.blocks {
                    prop_assert!(all[name].blocks.contains(block), "{} lost {}", name, block);
                }
            }
            let held: Vec<_> = all.iter().flat_map(|(n, s)| s.blocks.iter().map(move |b| (n, *b))).collect();
            for (i, (n, a)) in held.iter().enumerate() {
                for (m, b) in &held[i + 1..] {
                    prop_assert!(!overlap(*a, *b), "{} of {} and {} of {}", a, n, b, m);
                }
            }
            let again = plan(&s, &BTreeMap::new(), &all);
            prop_assert_eq!(&again.nodes, &p.nodes);
        }
    }
}

fn at(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn use_of(addresses: &[&str]) -> Arc<BTreeSet<IpAddr>> {
    Arc::new(addresses.iter().map(|a| at(a)).collect())
}

#[test]
fn a_node_whose_ciliumnode_was_lost_gets_the_block_of_its_pods_back() {
    let mut all = nodes(&["a", "b"]);
    all.get_mut("b").unwrap().in_use = use_of(&["10.0.0.9", "10.0.0.17"]);
    let p = plan(&settings(IpamMode::ClusterPool, &["10.0.0.0/16"], 24), &BTreeMap::new(), &all);
    assert_eq!(p.nodes["b"].blocks, [cidr("10.0.0.0/24")]);
    assert_eq!(p.nodes["a"].blocks, [cidr("10.0.1.0/24")], "though its name comes first");
    let pools = [pool("default", &["10.0.0.0/16"], 28)].into();
    let p = plan(&settings(IpamMode::MultiPool, &[], 24), &pools, &all);
    assert_eq!(p.nodes["b"].pools["default"][..2], [cidr("10.0.0.0/28"), cidr("10.0.0.16/28")]);
}

#[test]
fn of_overlapping_pools_the_one_that_is_used_goes_first_then_the_older() {
    let mut all = nodes(&["n"]);
    all.get_mut("n").unwrap().demand = [("a".into(), [1, 0]), ("b".into(), [1, 0])].into();
    let (a, b) = (pool("a", &["10.0.0.0/24"], 28), pool("b", &["10.0.0.0/16"], 28));
    let mut pools: BTreeMap<_, _> = [a, b].into();
    pools.get_mut("b").unwrap().created = "2025-01-01T00:00:00Z".into();
    let older = plan(&settings(IpamMode::MultiPool, &[], 24), &pools, &all);
    assert!(older.nodes["n"].pools.contains_key("b") && !older.nodes["n"].pools.contains_key("a"));
    assert!(older.problems.iter().any(|p| p.trouble == Trouble::Overlap && p.pool.as_deref() == Some("a")));
    all.get_mut("n").unwrap().pools = [("a".into(), vec![cidr("10.0.0.0/28")])].into();
    all.get_mut("n").unwrap().demand = [("a".into(), [20, 0]), ("b".into(), [1, 0])].into();
    let used = plan(&settings(IpamMode::MultiPool, &[], 24), &pools, &all);
    assert_eq!(used.nodes["n"].pools["a"].len(), 2, "what nodes hold is not shut by an older pool that grew");
    assert!(!used.nodes["n"].pools.contains_key("b"));
}

#[test]
fn a_prefix_taken_out_of_a_pool_is_drained_and_addresses_in_use_stay() {
    let mut all = nodes(&["n"]);
    let held = vec![cidr("10.0.0.0/28"), cidr("10.0.0.16/28"), cidr("10.1.0.0/28")];
    let n = all.get_mut("n").unwrap();
    (n.pools, n.in_use) = ([("default".into(), held.clone())].into(), use_of(&["10.0.0.3"]));
    let pools = [pool("default", &["10.1.0.0/16"], 28)].into();
    let s = settings(IpamMode::MultiPool, &[], 24);
    let marked = plan(&s, &pools, &all);
    assert_eq!(marked.nodes["n"].pools["default"], held, "nothing is taken at once");
    assert_eq!(marked.nodes["n"].releasing, [held[0], held[1]].into());
    carry_out(&mut all, &marked);
    // the node is wrong about the first, or it said so before the pod came
    all.get_mut("n").unwrap().released = [held[0], held[1]].into();
    let taken = plan(&s, &pools, &all);
    assert_eq!(taken.nodes["n"].pools["default"], [held[0], held[2]]);
    assert_eq!(taken.nodes["n"].releasing, [held[0]].into());
    // the pool gets the prefix back: the mark goes
    let pools = [pool("default", &["10.0.0.0/16", "10.1.0.0/16"], 28)].into();
    carry_out(&mut all, &taken);
    assert_eq!(plan(&s, &pools, &all).nodes["n"].releasing, [].into());
}

#[test]
fn what_one_node_keeps_in_store_is_given_back_when_pods_of_another_wait() {
    let mut all = nodes(&["a", "b"]);
    all.get_mut("a").unwrap().pools = [("default".into(), vec![cidr("10.0.0.0/28"), cidr("10.0.0.16/28")])].into();
    all.get_mut("b").unwrap().demand = [("default".into(), [3, 0])].into();
    let pools = [pool("default", &["10.0.0.0/27"], 28)].into();
    let s = settings(IpamMode::MultiPool, &[], 24);
    let p = plan(&s, &pools, &all);
    assert!(p.problems.iter().any(|p| p.trouble == Trouble::Exhausted && p.node.as_deref() == Some("b")));
    assert_eq!(p.nodes["a"].releasing.len(), 2);
    carry_out(&mut all, &p);
    all.get_mut("a").unwrap().released = [cidr("10.0.0.0/28"), cidr("10.0.0.16/28")].into();
    let p = plan(&s, &pools, &all);
    assert!(!p.nodes["b"].pools.contains_key("default"), "it is another's until that is written");
    carry_out(&mut all, &p);
    let p = plan(&s, &pools, &all);
    assert_eq!(p.nodes["b"].pools["default"], [cidr("10.0.0.0/28")]);
    assert!(p.problems.is_empty(), "{}", messages(&p));
}

#[test]
fn a_block_more_than_needed_stays_for_pods_in_a_hurry_and_none_stays_without_a_need() {
    let mut all = nodes(&["n"]);
    let held = vec![cidr("10.0.0.0/28"), cidr("10.0.0.16/28"), cidr("10.0.0.32/28")];
    let n = all.get_mut("n").unwrap();
    let used: Vec<String> = (17..25).map(|i| format!("10.0.0.{i}")).collect();
    n.pools = [("p".into(), held.clone())].into();
    n.in_use = use_of(&used.iter().map(String::as_str).collect::<Vec<_>>());
    let pools = [pool("p", &["10.0.0.0/24"], 28)].into();
    let s = settings(IpamMode::MultiPool, &[], 24);
    assert_eq!(plan(&s, &pools, &all).nodes["n"].releasing, [held[2]].into());
    all.get_mut("n").unwrap().in_use = use_of(&[]);
    assert_eq!(plan(&s, &pools, &all).nodes["n"].releasing.len(), 3);
}

#[test]
fn blocks_of_one_pool_for_all_become_those_of_the_default_pool() {
    let mut all = nodes(&["a", "b"]);
    let p = plan(&settings(IpamMode::ClusterPool, &["10.0.0.0/16"], 24), &BTreeMap::new(), &all);
    carry_out(&mut all, &p);
    let pools = [pool("default", &["10.0.0.0/16"], 24)].into();
    let p = plan(&settings(IpamMode::MultiPool, &[], 24), &pools, &all);
    assert_eq!(p.nodes["b"].pools["default"], [cidr("10.0.1.0/24")]);
    assert_eq!(p.nodes["b"].blocks, []);
    assert!(p.problems.is_empty(), "{}", messages(&p));
}

#[test]
fn a_block_without_an_address_is_refused_and_edges_count() {
    let mut all = nodes(&["n"]);
    all.get_mut("n").unwrap().demand = [("p".into(), [3, 0])].into();
    let mut pools: BTreeMap<_, _> = [pool("p", &["10.0.0.0/16"], 30)].into();
    let s = settings(IpamMode::MultiPool, &[], 24);
    assert_eq!(plan(&s, &pools, &all).nodes["n"].pools["p"].len(), 2);
    pools.get_mut("p").unwrap().spec.allow_last_address = true;
    assert_eq!(plan(&s, &pools, &all).nodes["n"].pools["p"].len(), 1);
    let uses = &plan(&s, &pools, &all).pools["p"];
    assert_eq!((uses.held[0], uses.free[0]), (1, 16383));
}

#[test]
fn free_blocks_are_counted_as_they_can_be_given() {
    let mut b = Blocks::default();
    assert_eq!(b.count_free(cidr("10.0.0.0/24"), 28), 16);
    b.insert(cidr("10.0.0.17/32"));
    b.insert(cidr("10.0.0.64/27"));
    assert_eq!(b.count_free(cidr("10.0.0.0/24"), 28), 13);
    b.insert(cidr("10.0.0.0/23"));
    assert_eq!(b.count_free(cidr("10.0.0.0/24"), 28), 0);
    assert_eq!(b.count_free(cidr("::/0"), 120), u64::MAX);
    assert_eq!(b.count_free(cidr("255.255.255.0/24"), 25), 2);
}

#[test]
fn pools_are_chosen_by_annotation_then_selector_then_default() {
    use axoneme_model::{
        LabelKey, Requirement, Selector,
        world::{Namespace, Pod},
    };
    let selector = |k: &str, v: &str| Some(Selector::new(vec![Requirement::equals(LabelKey::k8s(k), v)]));
    let mut pools: BTreeMap<Arc<str>, Pool> =
        ["blue", "default", "red", "six"].into_iter().map(|n| pool(n, &["10.0.0.0/16"], 28)).collect();
    pools.get_mut("blue").unwrap().spec.pods = selector("color", "blue");
    pools.get_mut("red").unwrap().spec.namespaces = selector("team", "red");
    let six = &mut pools.get_mut("six").unwrap().spec;
    (six.ipv4, six.ipv6, six.pods) = (None, Some(family(&["fd00::/64"], 120)), selector("color", "blue"));
    let pod = |labels: &[(&str, &str)], annotations: &[(&str, &str)]| {
        let map = |l: &[(&str, &str)]| l.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Pod {
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
            labels: map(labels),
            annotations: map(annotations),
            service_account: "default".into(),
            node: "n".into(),
            addresses: axoneme_model::PackedSet::new(),
            named_ports: axoneme_model::PackedMap::new(),
        }
    };
    let mut ns = Namespace::default();
    let default: Arc<str> = "default".into();
    let choice = |p: &Pod, ns: &Namespace| {
        choose(p, Some(ns), &pools, &default).map(|c| match c {
            Choice::Pool(n) => n.to_string(),
            Choice::Ambiguous(all) => all.join("|"),
            Choice::NoMatch => "none".into(),
        })
    };
    assert_eq!(choice(&pod(&[], &[]), &ns), ["default", "default"]);
    assert_eq!(choice(&pod(&[("color", "blue")], &[]), &ns), ["blue", "six"], "each family by the pools that have it");
    assert_eq!(choice(&pod(&[("color", "blue")], &[("ipam.cilium.io/ipv4-pool", "red")]), &ns), ["red", "six"]);
    let required = ("ipam.cilium.io/require-pool-match", "true");
    assert_eq!(choice(&pod(&[], &[required]), &ns), ["none", "none"]);
    ns.annotations.insert("ipam.cilium.io/ip-pool".into(), "red".into());
    assert_eq!(choice(&pod(&[("color", "blue")], &[]), &ns), ["red", "red"], "the namespace goes before selectors");
    assert_eq!(choice(&pod(&[], &[("ipam.cilium.io/ip-pool", "blue")]), &ns), ["blue", "blue"]);
    ns.annotations = axoneme_model::PackedMap::new();
    ns.labels.insert("team".into(), "red".into());
    assert_eq!(choice(&pod(&[("color", "blue")], &[]), &ns), ["blue|red", "six"]);
    assert!(choose(&pod(&[("color", "blue")], &[]), Some(&ns), &pools, &default)[0].row().starts_with('!'));
}

/// The whole handshake as a world: the object that the API server holds for each node with its version, the node with
/// what it was told last, and its pods. Every write of a plan may be lost, late, or refused because the object changed.
#[derive(Clone, Debug, Default)]
struct World {
    objects: BTreeMap<Arc<str>, (u64, NodeState)>,
    agents: BTreeMap<Arc<str>, Agent>,
    version: u64,
}

/// A write with the version of the object that it is onto.
type Late = (Arc<str>, u64, NodePlan);

/// A node: obeys the newest version that it was told, hands addresses out of open blocks only.
#[derive(Clone, Debug, Default)]
struct Agent {
    obeyed: u64,
    blocks: Vec<(Arc<str>, Cidr)>,
    closed: BTreeSet<Cidr>,
    pods: BTreeMap<u8, IpAddr>,
    waiting: BTreeMap<u8, Arc<str>>,
    said: (u64, BTreeSet<Cidr>),
}

impl Agent {
    fn told(&mut self, version: u64, object: &NodeState) {
        if version < self.obeyed {
            return;
        }
        self.obeyed = version;
        self.blocks = object.pools.iter().flat_map(|(n, b)| b.iter().map(move |b| (n.clone(), *b))).collect();
        self.closed.clone_from(&object.releasing);
    }

    fn work(&mut self) {
        for (pod, pool) in self.waiting.clone() {
            let used: BTreeSet<IpAddr> = self.pods.values().copied().collect();
            let open = self.blocks.iter().filter(|(n, b)| *n == pool && !self.closed.contains(b));
            let free = open.flat_map(|(_, b)| b.iter().skip(1).take(b.iter().count() - 2)).find(|a| !used.contains(a));
            if let Some(address) = free {
                self.waiting.remove(&pod);
                self.pods.insert(pod, address);
            }
        }
    }

    fn report(&mut self) {
        let idle = |c: &&Cidr| !self.pods.values().any(|a| c.contains(*a));
        self.said = (self.obeyed, self.closed.iter().filter(idle).copied().collect());
    }
}

impl World {
    /// What the leader sees. `late`: its writes of which it has not heard.
    fn seen(&self, late: &[Late], blind: bool) -> BTreeMap<Arc<str>, NodeState> {
        let state = |(name, (version, object)): (&Arc<str>, &(u64, NodeState))| {
            let mut state = object.clone();
            let agent = &self.agents[name];
            if agent.said.0 == *version {
                state.released = agent.said.1.clone();
            }
            // pods' addresses come late to the operator
            state.in_use = Arc::new(if blind { BTreeSet::new() } else { agent.pods.values().copied().collect() });
            for (_, _, plan) in late.iter().filter(|(n, v, _)| n == name && v == version) {
                for (pool, blocks) in &plan.pools {
                    state.promised.entry(pool.clone()).or_default().extend(blocks);
                }
            }
            for pool in agent.waiting.values() {
                state.demand.entry(pool.clone()).or_default()[0] += 1;
            }
            (name.clone(), state)
        };
        self.objects.iter().map(state).collect()
    }

    fn write(&mut self, name: &Arc<str>, version: u64, p: &NodePlan) {
        let Some((now, object)) = self.objects.get_mut(name) else { return };
        if *now != version || (object.pools == p.pools && object.releasing == p.releasing) {
            return;
        }
        (object.pools, object.releasing) = (p.pools.clone(), p.releasing.clone());
        self.version += 1;
        *now = self.version;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pod(u8, u8, bool),
    PodGone(u8, u8),
    Node(u8),
    /// Prefixes of the two pools.
    Pools(usize, usize),
    /// The leader plans; of its writes those land whose bit is set, the others are kept for later.
    Plan(u8, bool),
    /// Writes of an earlier plan land late.
    Late,
    /// A node hears of its object, of the one that a replica behind the times has, or nothing; then it says how it is.
    Hear(u8, bool),
    Restart(u8),
    /// Another replica leads, which has not heard of anything since it looked last.
    Leader,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u8, 0..24u8, any::<bool>()).prop_map(|(n, p, b)| Step::Pod(n, p, b)),
        4 => (0..3u8, 0..24u8).prop_map(|(n, p)| Step::PodGone(n, p)),
        1 => (0..3u8).prop_map(Step::Node),
        2 => (0..4usize, 0..4usize).prop_map(|(a, b)| Step::Pools(a, b)),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(w, b)| Step::Plan(w, b)),
        1 => Just(Step::Late),
        6 => (0..3u8, any::<bool>()).prop_map(|(n, s)| Step::Hear(n, s)),
        1 => (0..3u8).prop_map(Step::Restart),
        1 => Just(Step::Leader),
    ]
}

const PREFIXES: [&[&str]; 4] = [&["10.0.0.0/26"], &["10.0.0.32/27", "10.0.1.0/28"], &["10.0.1.0/27"], &["10.0.0.0/28"]];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Pools are edited, pods and nodes come and go, nodes restart, writes are lost, late or refused, leaders change and
    /// replicas behind the times serve nodes: no address is held by two pods, no block by two nodes, no pod's block is
    /// taken from its node; and when all calms down, every pod has its address as far as the pools reach.
    #[test]
    fn no_address_is_twice_and_none_in_use_is_taken(steps in many::vec(step(), 1..120)) {
        let s = settings(IpamMode::MultiPool, &[], 24);
        let edit = |a: usize, b: usize| -> BTreeMap<Arc<str>, Pool> {
            [pool("default", PREFIXES[a], 28), pool("blue", PREFIXES[b], 29)].into()
        };
        let mut pools = edit(0, 2);
        let mut world = World::default();
        let mut other = world.objects.clone();
        let mut late: Vec<Late> = Vec::new();
        for step in steps {
            match step {
                Step::Node(n) => {
                    world.version += 1;
                    let fresh = (world.version, NodeState::default());
                    world.objects.entry(format!("n{n}").into()).or_insert(fresh);
                    world.agents.entry(format!("n{n}").into()).or_default();
                }
                Step::Pod(n, p, blue) => if let Some(a) = world.agents.get_mut(&*format!("n{n}")) && !a.pods.contains_key(&p) {
                    a.waiting.insert(p, if blue { "blue".into() } else { "default".into() });
                },
                Step::PodGone(n, p) => if let Some(a) = world.agents.get_mut(&*format!("n{n}")) {
                    a.waiting.remove(&p);
                    a.pods.remove(&p);
                },
                Step::Pools(a, b) => pools = edit(a, b),
                Step::Plan(lands, blind) => {
                    let p = plan(&s, &pools, &world.seen(&late, blind));
                    for (i, (name, node)) in p.nodes.iter().enumerate() {
                        let version = world.objects[name].0;
                        if lands & (1 << i) != 0 {
                            world.write(name, version, node);
                        } else {
                            late.push((name.clone(), version, node.clone()));
                        }
                    }
                }
                Step::Late => for (name, version, node) in std::mem::take(&mut late) {
                    world.write(&name, version, &node);
                },
                Step::Hear(n, stale) => {
                    let name: Arc<str> = format!("n{n}").into();
                    let objects = if stale { &other } else { &world.objects };
                    if let (Some((version, object)), Some(a)) = (objects.get(&name), world.agents.get_mut(&name)) {
                        a.told(*version, object);
                        a.work();
                        a.report();
                    }
                }
                Step::Restart(n) => if let Some(a) = world.agents.get_mut(&*format!("n{n}")) {
                    // what it obeyed last is on disk, the blocks themselves come anew
                    (a.blocks, a.closed) = (Vec::new(), BTreeSet::new());
                    a.said = Default::default();
                },
                Step::Leader => {
                    // by then the writes of the one before have ended
                    late.clear();
                    other = world.objects.clone();
                }
            }
            holds(&world)?;
        }
        for (name, version, node) in std::mem::take(&mut late) {
            world.write(&name, version, &node);
        }
        holds(&world)?;
        for _ in 0..40 {
            for (name, node) in plan(&s, &pools, &world.seen(&[], false)).nodes {
                let version = world.objects[&name].0;
                world.write(&name, version, &node);
            }
            for (name, (version, object)) in &world.objects {
                let a = world.agents.get_mut(name).unwrap();
                a.told(*version, object);
                a.work();
                a.report();
            }
            holds(&world)?;
        }
        let p = plan(&s, &pools, &world.seen(&[], false));
        for (name, agent) in &world.agents {
            for pool in agent.waiting.values() {
                let told = |p: &Problem| p.pool.as_ref() == Some(pool) && p.node.as_ref() == Some(name);
                prop_assert!(p.problems.iter().any(told), "a pod of {} waits for {} without a reason: {:?}", name, pool, p);
            }
        }
        for (name, node) in &p.nodes {
            let (_, object) = &world.objects[name];
            prop_assert_eq!((&node.pools, &node.releasing), (&object.pools, &object.releasing), "it never comes to rest");
        }
    }
}

fn holds(world: &World) -> Result<(), TestCaseError> {
    let held: Vec<(&Arc<str>, Cidr)> =
        world.objects.iter().flat_map(|(n, (_, o))| o.pools.values().flatten().map(move |b| (n, *b))).collect();
    for (i, (n, a)) in held.iter().enumerate() {
        for (m, b) in &held[i + 1..] {
            prop_assert!(!overlap(*a, *b), "{} of {} and {} of {}", a, n, b, m);
        }
    }
    let mut seen = BTreeMap::new();
    for (name, agent) in &world.agents {
        for address in agent.pods.values() {
            prop_assert_eq!(seen.insert(*address, name.clone()), None, "{} is held twice", address);
            let own = held.iter().any(|(n, b)| *n == name && b.contains(*address));
            prop_assert!(own, "the block of {} was taken from {}", address, name);
        }
    }
    Ok(())
}
