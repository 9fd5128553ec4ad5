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

fn pool(name: &str, ipv4: &[&str], mask: u8) -> (Arc<str>, PodIpPool) {
    let pool = PodIpPool {
        name: name.into(),
        ipv4: Some(family(ipv4, mask)),
        ipv6: None,
        allow_first_address: false,
        allow_last_address: false,
        pods: None,
        namespaces: None,
        skip_masquerade: false,
    };
    (name.into(), pool)
}

fn nodes(names: &[&str]) -> BTreeMap<Arc<str>, NodeState> {
    names.iter().map(|n| (Arc::from(*n), NodeState::default())).collect()
}

/// What the nodes hold after the plan.
fn carry_out(nodes: &mut BTreeMap<Arc<str>, NodeState>, plan: &Plan) {
    for (name, p) in &plan.nodes {
        let n = nodes.get_mut(name).unwrap();
        (n.blocks, n.pools) = (p.blocks.clone(), p.pools.clone());
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
    // 28 of blocks of 14; 3 of blocks of 2
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

    #[test]
    fn pools_never_share_a_block(
        steps in many::vec(many::btree_map("[a-d]", (0..40u32, 0..40u32), 1..4), 1..8)
    ) {
        let pools = [pool("default", &["10.0.0.0/24"], 28), pool("blue", &["10.0.0.128/25"], 29)].into();
        let mut all: BTreeMap<Arc<str>, NodeState> = BTreeMap::new();
        for step in steps {
            for (n, (a, b)) in step {
                let demand = [("default".into(), [a, 0]), ("blue".into(), [b, 0])].into();
                all.entry(n.as_str().into()).or_default().demand = demand;
            }
            let p = plan(&settings(IpamMode::MultiPool, &[], 24), &pools, &all);
            carry_out(&mut all, &p);
            let held: Vec<_> = all.values().flat_map(|s| s.pools.values().flatten().copied()).collect();
            for (i, a) in held.iter().enumerate() {
                prop_assert!(held[i + 1..].iter().all(|b| !overlap(*a, *b)));
            }
        }
    }
}
