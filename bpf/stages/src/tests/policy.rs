//! The order in which a table is looked into.

super::both_families!(
    a_kind_decides_where_the_class_says_nothing,
    ports_of_a_class_go_before_its_kind,
    nodes_are_of_no_kind,
    kinds_are_of_one_family,
    what_is_not_announced_is_not_looked_for,
    a_judgement_is_kept_until_its_tables_change,
    kept_judgements_are_never_of_another_case,
);

mod inner {
    use axoneme_abi::policy::{kind, slot_kind};

    use super::super::*;

    const POD: u32 = 300;

    /// Who speaks from elsewhere has this identity and class. The table of B denies what it says nothing about.
    fn strict<F: Testable>(identity: u32) -> Host
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(true);
        let t: &crate::host::Tables<F> = h.tables();
        let bits = if F::NUMBER == 4 { 32 } else { 128 };
        let info = IpInfo::settled(Side::new(identity, identity), 7, 0);
        t.ipcache.borrow_mut().retain(|(address, ..)| *address != F::address(REMOTE));
        t.ipcache.borrow_mut().push((F::address(REMOTE), bits, info));
        default(&h, 2, Direction::Ingress, false);
        h
    }

    /// Puts an entry for all ports of all protocols.
    fn all(h: &Host, peer: u32, allow: bool) {
        let key = PolicyKey { peer, direction: Direction::Ingress as u8, protocol: 0, port: 0 };
        let verdict = if allow { ALLOW } else { DENY };
        let value = PolicyValue { rule: 9, verdict, ..PolicyValue::default() };
        h.policy.borrow_mut().insert((2, PREFIX_FIXED, key), value);
    }

    fn announce(h: &Host, kind: u32) {
        let mut slots = h.slots.borrow_mut();
        slots.get_mut(&2).unwrap().flags |= slot_kind(kind, Direction::Ingress as u8);
    }

    fn arrives<F: Testable>(h: &Host, port: u16) -> bool
    where
        Host: HasTables<F> + Maps<F>,
    {
        let bytes = F::packet(REMOTE, B, 6, &tcp(1000, port, SYN));
        !meet::<F, { hook::FROM_NETDEV }>(h, UPLINK, &bytes).0.is_drop()
    }

    fn own<F: Testable>(identity: u32) -> u32
    where
        Host: HasTables<F> + Maps<F>,
    {
        kind(identity, F::NUMBER == 6)
    }

    pub(super) fn a_kind_decides_where_the_class_says_nothing<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = strict::<F>(POD);
        announce(&h, own::<F>(POD));
        assert!(!arrives::<F>(&h, 80), "the default");
        all(&h, own::<F>(POD), true);
        assert!(arrives::<F>(&h, 81), "the kind");
        all(&h, POD, false);
        assert!(!arrives::<F>(&h, 82), "the class");
    }

    pub(super) fn ports_of_a_class_go_before_its_kind<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = strict::<F>(POD);
        announce(&h, own::<F>(POD));
        rule(&h, 2, Direction::Ingress, own::<F>(POD), 6, 80, false);
        all(&h, own::<F>(POD), true);
        all(&h, 0, false);
        rule(&h, 2, Direction::Ingress, POD, 6, 81, false);
        assert!(!arrives::<F>(&h, 80) && !arrives::<F>(&h, 81) && arrives::<F>(&h, 82));
    }

    pub(super) fn nodes_are_of_no_kind<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        for identity in [3, 6, 7, 255] {
            let h = strict::<F>(identity);
            for kind in 252..=255 {
                announce(&h, kind);
                all(&h, kind, true);
            }
            assert_eq!(arrives::<F>(&h, 80), identity == 255, "255 is the number of a kind, which no identity has");
        }
    }

    pub(super) fn kinds_are_of_one_family<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = strict::<F>(POD);
        for kind in (252..=255).filter(|k| *k != own::<F>(POD)) {
            announce(&h, kind);
            all(&h, kind, true);
        }
        assert!(!arrives::<F>(&h, 80));
    }

    pub(super) fn what_is_not_announced_is_not_looked_for<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = strict::<F>(POD);
        all(&h, own::<F>(POD), true);
        assert!(!arrives::<F>(&h, 80));
        announce(&h, own::<F>(POD));
        assert!(arrives::<F>(&h, 81));
    }

    pub(super) fn a_judgement_is_kept_until_its_tables_change<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = strict::<F>(POD);
        rule(&h, 2, Direction::Ingress, POD, 6, 80, true);
        assert!(arrives::<F>(&h, 80));
        // A change that nobody was told of: what is kept decides, and only of the same case.
        h.policy.borrow_mut().clear();
        let syn = |port| F::packet(REMOTE, B, 6, &tcp(6000, port, SYN));
        let meets = |port| meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &syn(port)).0;
        assert!(!meets(80).is_drop());
        assert_eq!(meets(81).reason(), Some(DropReason::NoPolicy));
        // A drop is kept with its reason.
        default(&h, 2, Direction::Ingress, false);
        h.v4.conntrack.borrow_mut().clear();
        h.v6.conntrack.borrow_mut().clear();
        let denied = meets(80);
        assert_eq!(denied.reason(), Some(DropReason::PolicyDenied));
        h.policy.borrow_mut().clear();
        assert_eq!(meets(80), denied);
        h.slots.borrow_mut().get_mut(&2).unwrap().revision += 1;
        assert_eq!(meets(80).reason(), Some(DropReason::NoPolicy));
    }

    /// All cases at one place would hide one of them behind another: each finds its own or asks.
    pub(super) fn kept_judgements_are_never_of_another_case<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = strict::<F>(POD);
        for port in (1..4000).filter(|p| p % 3 == 0) {
            rule(&h, 2, Direction::Ingress, POD, 6, port, true);
        }
        for _ in 0..2 {
            for port in 1..4000 {
                assert_eq!(arrives::<F>(&h, port), port % 3 == 0, "{port}");
            }
        }
        assert!(h.judgements.borrow().len() > 200, "places are used alike");
    }
}
