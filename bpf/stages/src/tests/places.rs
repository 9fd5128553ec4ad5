//! Where packets may be met, and where they go.

super::both_families!(
    a_spoofed_source_is_dropped,
    an_established_connection_is_no_cover_for_a_spoofer,
    a_strange_mac_is_dropped,
    packets_for_other_nodes_take_the_tunnel_with_the_senders_identity,
    packets_for_other_nodes_go_to_the_next_hop,
    a_connection_outlives_the_link_that_it_began_by,
    packets_for_the_world_and_nodes_go_to_the_stack,
    the_tunnel_says_who_sends,
    what_comes_by_the_tunnel_goes_back_by_it,
    identities_that_nobody_may_claim_are_refused,
    the_underlay_may_not_speak_for_pods,
    past_the_tunnel_it_is_the_stacks_and_comes_both_ways,
    the_underlays_own_traffic_passes,
    nobody_is_behind_a_strange_address,
    icmp_errors_go_to_the_sender_of_what_they_carry,
    a_family_that_is_off_is_dropped_from_pods_only,
    a_pod_that_moved_is_found_again,
    a_pod_with_a_limit_is_reached_through_its_queue,
    a_new_connection_tells_where_its_first_packet_went,
);

mod inner {
    use super::super::*;

    /// Has packets to a pod go through a queue, or past it, as user space does.
    fn queued<F: Testable>(h: &Host, of: u8, flags: u16)
    where
        Host: HasTables<F> + Maps<F>,
    {
        let t: &crate::host::Tables<F> = h.tables();
        for (_, e) in t.endpoints.borrow_mut().iter_mut().filter(|(a, _)| *a == F::address(of)) {
            e.flags = flags;
        }
        h.epoch.set(h.epoch.get() + 2);
    }

    pub(super) fn a_new_connection_tells_where_its_first_packet_went<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let first = |from, to| F::packet(from, to, 17, &udp(5000, 53));
        for native in [false, true] {
            let wire = if native { Action::NextHop } else { Action::Tunnel };
            // either end of the key is the originator in some of them
            for (from, link, to, action) in [
                (A, LINK_A, B, Action::Local),
                (B, LINK_B, A, Action::Local),
                (A, LINK_A, REMOTE, wire),
                (A, LINK_A, NODE, Action::Stack),
                (A, LINK_A, OTHER_NODE, Action::Stack),
                (B, LINK_B, WORLD, Action::Stack),
            ] {
                let h = world(native);
                assert!(!from_pod::<F>(&h, link, &first(from, to)).is_drop());
                assert!(!from_pod::<F>(&h, link, &first(from, to)).is_drop());
                let told: Vec<_> = h.flows.borrow().iter().map(|f| (f.kind, f.hook, f.towards)).collect();
                let expected = (EventKind::New as u8, hook::FROM_CONTAINER, action as u16);
                assert_eq!(told, [expected], "{from} to {to}, native {native}: once");
            }
            let h = world(native);
            if native {
                assert_eq!(meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &first(REMOTE, A)).0, Verdict::local(LINK_A));
            } else {
                assert_eq!(meet::<F, { hook::FROM_OVERLAY }>(&h, OVERLAY, &first(REMOTE, A)).0, Verdict::local(LINK_A));
            }
            assert_eq!(meet::<F, { hook::TO_CONTAINER }>(&h, LINK_B, &first(NODE, B)).0, Verdict::PASS);
            let towards: Vec<_> = h.flows.borrow().iter().map(|f| f.towards).collect();
            assert_eq!(towards, [Action::Local as u16; 2]);
        }
    }

    pub(super) fn a_pod_with_a_limit_is_reached_through_its_queue<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let (there, back) = (F::packet(A, B, 17, &udp(5000, 53)), F::packet(B, A, 17, &udp(53, 5000)));
        for (of, [to_a, to_b]) in [
            (B, [Verdict::local(LINK_A), Verdict::queue(LINK_B)]),
            (A, [Verdict::queue(LINK_A), Verdict::local(LINK_B)]),
        ] {
            let h = world(false);
            queued::<F>(&h, of, IP_QUEUED);
            // the first packet, the short way, and the answers
            for _ in 0..2 {
                assert_eq!(from_pod::<F>(&h, LINK_A, &there), to_b);
                assert_eq!(from_pod::<F>(&h, LINK_B, &back), to_a);
            }
            // the limit is lifted under the connection, and set again
            queued::<F>(&h, of, 0);
            assert_eq!(from_pod::<F>(&h, LINK_A, &there), Verdict::local(LINK_B));
            assert_eq!(from_pod::<F>(&h, LINK_B, &back), Verdict::local(LINK_A));
            queued::<F>(&h, of, IP_QUEUED);
            assert_eq!(from_pod::<F>(&h, LINK_B, &back), to_a);
            assert_eq!(from_pod::<F>(&h, LINK_A, &there), to_b);
            assert_eq!(h.flows.borrow().len(), 1, "it is one connection all the time");
        }
        // what comes from other nodes goes through the queue, what the stack sends enters it anyway
        let h = world(false);
        queued::<F>(&h, A, IP_QUEUED);
        let remote = F::packet(REMOTE, A, 17, &udp(1, 2));
        for _ in 0..2 {
            assert_eq!(meet::<F, { hook::FROM_OVERLAY }>(&h, OVERLAY, &remote).0, Verdict::queue(LINK_A));
        }
        let node = F::packet(NODE, A, 17, &udp(1, 2));
        for _ in 0..2 {
            assert_eq!(meet::<F, { hook::TO_CONTAINER }>(&h, LINK_A, &node).0, Verdict::PASS);
        }
        // what it sends goes as ever
        assert_eq!(from_pod::<F>(&h, LINK_A, &F::packet(A, REMOTE, 17, &udp(2, 1))), Verdict::tunnel(OVERLAY, 7, 101));
    }

    pub(super) fn a_spoofed_source_is_dropped<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        for source in [B, REMOTE, NODE, WORLD] {
            let v = from_pod::<F>(&h, LINK_A, &F::packet(source, B, 17, &udp(1, 2)));
            assert_eq!(v, Verdict::drop(DropReason::InvalidSourceIp, Direction::Egress), "{source}");
        }
    }

    pub(super) fn an_established_connection_is_no_cover_for_a_spoofer<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let p = F::packet(A, B, 17, &udp(1, 2));
        assert!(!from_pod::<F>(&h, LINK_A, &p).is_drop());
        assert!(!from_pod::<F>(&h, LINK_A, &p).is_drop());
        let before = entry::<F>(&h);
        assert_eq!(from_pod::<F>(&h, 13, &p).reason(), Some(DropReason::InvalidSourceIp));
        assert_eq!(meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &p).0.reason(), Some(DropReason::InvalidSourceIp));
        assert_eq!(meet::<F, { hook::FROM_OVERLAY }>(&h, OVERLAY, &p).0.reason(), Some(DropReason::InvalidSourceIp));
        assert_eq!(entry::<F>(&h), before);
    }

    pub(super) fn a_strange_mac_is_dropped<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let t: &crate::host::Tables<F> = h.tables();
        t.endpoints.borrow_mut()[0].1.mac = [0x000a_u16.to_le(), 0, 0x0100_u16.to_le()];
        let mut p = F::packet(A, B, 17, &udp(1, 2));
        assert_eq!(from_pod::<F>(&h, LINK_A, &p), Verdict::local(LINK_B));
        h.epoch.set(1);
        p[11] = 2;
        assert_eq!(from_pod::<F>(&h, LINK_A, &p).reason(), Some(DropReason::InvalidSourceMac));
    }

    pub(super) fn packets_for_other_nodes_take_the_tunnel_with_the_senders_identity<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let p = F::packet(A, REMOTE, 17, &udp(1, 2));
        for _ in 0..2 {
            assert_eq!(from_pod::<F>(&h, LINK_A, &p), Verdict::tunnel(OVERLAY, 7, 101));
        }
        let back = F::packet(REMOTE, A, 17, &udp(2, 1));
        assert_eq!(meet::<F, { hook::FROM_OVERLAY }>(&h, OVERLAY, &back).0, Verdict::local(LINK_A));
    }

    pub(super) fn packets_for_other_nodes_go_to_the_next_hop<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(true);
        for _ in 0..2 {
            let p = F::packet(A, REMOTE, 17, &udp(1, 2));
            assert_eq!(from_pod::<F>(&h, LINK_A, &p), Verdict::next_hop(UPLINK, 7));
        }
        let back = F::packet(REMOTE, A, 17, &udp(2, 1));
        assert_eq!(meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &back).0, Verdict::local(LINK_A));
    }

    /// The tunnel device was made anew, or is another; nothing of policy has changed.
    pub(super) fn a_connection_outlives_the_link_that_it_began_by<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        for native in [false, true] {
            let h = world(native);
            let to = |link| if native { Verdict::next_hop(link, 7) } else { Verdict::tunnel(link, 7, 101) };
            let p = F::packet(A, REMOTE, 6, &tcp(4000, 80, SYN));
            assert_eq!(from_pod::<F>(&h, LINK_A, &p), to(if native { UPLINK } else { OVERLAY }));
            h.overlay.set(33);
            h.uplink.set(33);
            for flags in [ACK, ACK | FIN] {
                let p = F::packet(A, REMOTE, 6, &tcp(4000, 80, flags));
                assert_eq!(from_pod::<F>(&h, LINK_A, &p), to(33), "{flags}");
            }
        }
    }

    pub(super) fn packets_for_the_world_and_nodes_go_to_the_stack<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        for to in [WORLD, NODE, OTHER_NODE] {
            for _ in 0..2 {
                assert_eq!(from_pod::<F>(&h, LINK_A, &F::packet(A, to, 17, &udp(1, 2))), Verdict::PASS);
            }
            let back = F::packet(to, A, 17, &udp(2, 1));
            assert_eq!(meet::<F, { hook::TO_CONTAINER }>(&h, LINK_A, &back).0, Verdict::PASS);
        }
        default(&h, 1, Direction::Egress, false);
        rule(&h, 1, Direction::Egress, 2, 17, 2, true);
        assert_eq!(from_pod::<F>(&h, LINK_A, &F::packet(A, WORLD, 17, &udp(9, 2))), Verdict::PASS);
        assert!(from_pod::<F>(&h, LINK_A, &F::packet(A, NODE, 17, &udp(9, 2))).is_drop());
    }

    /// By the tunnel with an identity.
    fn by_tunnel<F: Testable>(h: &Host, identity: u32, p: &[u8]) -> Verdict
    where
        Host: HasTables<F> + Maps<F>,
    {
        let mut buffer = Buffer::new(p, OVERLAY);
        buffer.tunnel = Some(identity);
        slow::<F, _, _, { hook::FROM_OVERLAY }>(h, &buffer, &mut Work::new())
    }

    pub(super) fn the_tunnel_says_who_sends<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        default(&h, 2, Direction::Ingress, false);
        rule(&h, 2, Direction::Ingress, 555, 17, 2, true);
        // The ipcache knows another identity, or none at all: the tunnel's counts.
        for source in [REMOTE, WORLD] {
            let p = F::packet(source, B, 17, &udp(1, 2));
            assert!(by_tunnel::<F>(&h, 103, &p).is_drop());
            assert_eq!(by_tunnel::<F>(&h, 555, &p), Verdict::local(LINK_B));
        }
    }

    pub(super) fn what_comes_by_the_tunnel_goes_back_by_it<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let p = F::packet(OTHER_NODE, B, 6, &tcp(1, 2, SYN));
        assert_eq!(by_tunnel::<F>(&h, 6, &p), Verdict::local(LINK_B));
        let back = F::packet(B, OTHER_NODE, 6, &tcp(2, 1, SYN | ACK));
        assert_eq!(from_pod::<F>(&h, LINK_B, &back), Verdict::tunnel(OVERLAY, 7, 102));
    }

    pub(super) fn identities_that_nobody_may_claim_are_refused<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        for identity in [0, 1] {
            let v = by_tunnel::<F>(&h, identity, &F::packet(REMOTE, B, 17, &udp(1, 2)));
            assert_eq!(v.reason(), Some(DropReason::InvalidIdentity));
        }
    }

    pub(super) fn the_underlay_may_not_speak_for_pods<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        for (source, native, passes) in [
            (REMOTE, false, false),
            (REMOTE, true, true),
            (A, true, false),
            (WORLD, false, true),
            (OTHER_NODE, false, true),
        ] {
            let h = world(native);
            let v = meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &F::packet(source, B, 17, &udp(1, 2))).0;
            if passes {
                assert_eq!(v, Verdict::local(LINK_B), "{source}");
            } else {
                assert_eq!(v, Verdict::drop(DropReason::InvalidSourceIp, Direction::Ingress), "{source}");
            }
        }
    }

    pub(super) fn past_the_tunnel_it_is_the_stacks_and_comes_both_ways<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let there = F::packet(A, REMOTE, 17, &udp(1, 2));
        let here = F::packet(REMOTE, B, 17, &udp(1, 2));
        for (taken, sent) in [(false, false), (true, false), (true, true)] {
            let h = world(false);
            if taken {
                h.features.set(h.features.get() | feature::DIRECT);
            }
            if sent {
                let t: &crate::host::Tables<F> = h.tables();
                t.ipcache.borrow_mut().iter_mut().filter(|e| e.2.node == 7).for_each(|e| e.2.flags |= IP_DIRECT);
            }
            let to = from_pod::<F>(&h, LINK_A, &there);
            assert_eq!(to, if sent { Verdict::PASS } else { Verdict::tunnel(OVERLAY, 7, 101) });
            let bare = meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &here).0;
            let spoofed = Verdict::drop(DropReason::InvalidSourceIp, Direction::Ingress);
            assert_eq!(bare, if taken { Verdict::local(LINK_B) } else { spoofed });
            assert_eq!(by_tunnel::<F>(&h, 103, &here), Verdict::local(LINK_B), "while others have not heard of it");
        }
    }

    pub(super) fn the_underlays_own_traffic_passes<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let broken = F::packet(WORLD, NODE, 6, &[0; 3]);
        for p in [F::packet(WORLD, NODE, 6, &tcp(1, 2, SYN)), broken] {
            assert_eq!(meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &p).0, Verdict::PASS);
        }
        let t: &crate::host::Tables<F> = h.tables();
        assert!(t.conntrack.borrow().is_empty() && t.fragments.borrow().is_empty());
    }

    pub(super) fn nobody_is_behind_a_strange_address<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let p = F::packet(REMOTE, 77, 17, &udp(1, 2));
        assert_eq!(by_tunnel::<F>(&h, 103, &p).reason(), Some(DropReason::NoLocalEndpoint));
        assert_eq!(meet::<F, { hook::TO_CONTAINER }>(&h, LINK_B, &p).0.reason(), Some(DropReason::NoLocalEndpoint));
        // A pod's packet on another pod's link.
        let p = F::packet(NODE, A, 17, &udp(1, 2));
        assert_eq!(meet::<F, { hook::TO_CONTAINER }>(&h, LINK_B, &p).0.reason(), Some(DropReason::NoLocalEndpoint));
        assert_eq!(by_tunnel::<F>(&h, 103, &F::packet(REMOTE, NODE, 17, &udp(1, 2))), Verdict::PASS);
    }

    /// An error about a packet, from someone to that packet's sender.
    fn error<F: Testable>(from: u8, about: &[u8], to: u8) -> Vec<u8>
    where
        Host: HasTables<F> + Maps<F>,
    {
        let kind = if F::NUMBER == 4 { 3 } else { 1 };
        let mut payload = vec![kind, 3, 0, 0, 0, 0, 0, 0];
        payload.extend(&about[14..]);
        F::packet(from, to, F::ICMP, &payload)
    }

    pub(super) fn icmp_errors_go_to_the_sender_of_what_they_carry<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        default(&h, 1, Direction::Ingress, false);
        let p = F::packet(A, B, 17, &udp(5000, 9));
        assert!(from_pod::<F>(&h, LINK_B, &error::<F>(B, &p, A)).is_drop(), "about nothing that is known");
        let _ = from_pod::<F>(&h, LINK_A, &p);
        assert_eq!(from_pod::<F>(&h, LINK_B, &error::<F>(B, &p, A)), Verdict::local(LINK_A));
        // A router on the way may speak, someone's name may not be taken, and it goes to nobody else.
        let v = meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &error::<F>(WORLD, &p, A)).0;
        assert_eq!(v, Verdict::local(LINK_A));
        assert!(from_pod::<F>(&h, LINK_B, &error::<F>(WORLD, &p, A)).is_drop());
        assert!(meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &error::<F>(B, &p, A)).0.is_drop());
        default(&h, 2, Direction::Ingress, false);
        assert!(meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &error::<F>(WORLD, &p, B)).0.is_drop());
    }

    pub(super) fn a_family_that_is_off_is_dropped_from_pods_only<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        h.features.set(h.features.get() & !F::FEATURE);
        let p = F::packet(A, B, 17, &udp(1, 2));
        assert_eq!(from_pod::<F>(&h, LINK_A, &p).reason(), Some(DropReason::UnsupportedL3));
        assert_eq!(meet::<F, { hook::FROM_NETDEV }>(&h, UPLINK, &p).0, Verdict::PASS);
    }

    pub(super) fn a_pod_that_moved_is_found_again<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let p = F::packet(A, B, 17, &udp(1, 2));
        for _ in 0..2 {
            assert_eq!(from_pod::<F>(&h, LINK_A, &p), Verdict::local(LINK_B));
        }
        // Its link is another one: the epoch says that addresses changed hands.
        let t: &crate::host::Tables<F> = h.tables();
        t.endpoints.borrow_mut()[1].1.ifindex = 99;
        h.epoch.set(h.epoch.get() + 1);
        for _ in 0..2 {
            assert_eq!(from_pod::<F>(&h, LINK_A, &p), Verdict::local(99));
        }
        // Now it is on another node.
        t.endpoints.borrow_mut().remove(1);
        let bits = if F::NUMBER == 4 { 32 } else { 128 };
        t.ipcache.borrow_mut().push((F::address(B), bits, IpInfo::settled(Side::new(102, 102), 7, 0)));
        h.epoch.set(h.epoch.get() + 1);
        for _ in 0..2 {
            assert_eq!(from_pod::<F>(&h, LINK_A, &p), Verdict::tunnel(OVERLAY, 7, 101));
        }
    }
}
