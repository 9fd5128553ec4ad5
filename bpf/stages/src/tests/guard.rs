//! The host firewall.

super::both_families!(
    without_a_guard_everything_passes_and_nothing_is_kept,
    a_table_that_is_missing_leaves_the_node_alone,
    only_the_nodes_own_traffic_is_judged,
    what_is_denied_is_dropped_and_told,
    answers_pass_by_their_connection,
    answers_without_a_connection_do_not_pass,
    what_was_open_before_the_guard_is_not_cut,
    nothing_is_opened_by_packets_that_open_nothing,
    a_changed_table_judges_connections_again,
    the_safe_set_passes_whatever_the_table_says,
    only_the_setting_that_names_a_member_takes_it_out,
    the_overlays_port_and_the_api_servers_addresses_are_safe,
    what_the_node_passes_on_is_not_judged,
    later_fragments_follow_the_first,
    echo_is_judged_by_its_type,
    protocols_without_ports_are_judged,
    errors_about_connections_come_in,
    unreadable_packets_to_the_node_are_dropped,
    audit_passes_and_is_told_once,
    an_ended_connection_opens_anew,
);

mod inner {
    use axoneme_abi::{
        guard::{Guard, SAFE_API_SERVER, SAFE_PATH_ERRORS, SAFE_SSH, SAFE_STREAMS},
        policy::DEFAULT_AUDIT,
    };

    use super::super::*;
    use crate::{Work, guard};

    const SLOT: u16 = 3;

    /// The world, and a node of which both directions are closed by default.
    fn guarded<F: Testable>() -> Host
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        h.slots.borrow_mut().insert(SLOT, Slot { revision: 1, ..Slot::default() });
        default(&h, SLOT, Direction::Ingress, false);
        default(&h, SLOT, Direction::Egress, false);
        h.guard.set(Guard { slot: u32::from(SLOT), overlay_port: 8472, ..Guard::default() });
        h
    }

    fn come<F: Testable>(h: &Host, bytes: &[u8]) -> Verdict
    where
        Host: HasTables<F> + Maps<F>,
    {
        guard::<F, _, _, false>(h, &Buffer::new(bytes, UPLINK), false, &mut Work::new())
    }

    fn go<F: Testable>(h: &Host, bytes: &[u8]) -> Verdict
    where
        Host: HasTables<F> + Maps<F>,
    {
        guard::<F, _, _, true>(h, &Buffer::new(bytes, UPLINK), true, &mut Work::new())
    }

    fn pass_on<F: Testable>(h: &Host, bytes: &[u8]) -> Verdict
    where
        Host: HasTables<F> + Maps<F>,
    {
        guard::<F, _, _, true>(h, &Buffer::new(bytes, UPLINK), false, &mut Work::new())
    }

    fn connections<F: Testable>(h: &Host) -> usize
    where
        Host: HasTables<F> + Maps<F>,
    {
        let t: &crate::host::Tables<F> = h.tables();
        t.guarded.borrow().len()
    }

    fn tcp_packet<F: Testable>(source: u8, destination: u8, ports: (u16, u16), flags: u8) -> Vec<u8>
    where
        Host: HasTables<F> + Maps<F>,
    {
        F::packet(source, destination, 6, &tcp(ports.0, ports.1, flags))
    }

    fn sctp_chunk(source: u16, destination: u16) -> Vec<u8> {
        let mut t = Vec::new();
        t.extend(source.to_be_bytes());
        t.extend(destination.to_be_bytes());
        t.extend([0; 8]);
        t.extend([1, 0, 0, 4]);
        t
    }

    pub(super) fn without_a_guard_everything_passes_and_nothing_is_kept<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        h.guard.set(Guard::default());
        assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, 80), SYN)), Verdict::PASS);
        assert_eq!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (999, 80), SYN)), Verdict::PASS);
        assert_eq!(come::<F>(&h, &F::packet(WORLD, NODE, 6, &[0; 3])), Verdict::PASS, "nor is anything read");
        assert!(connections::<F>(&h) == 0 && h.drops.borrow().is_empty());
        // a family that is off
        let h = guarded::<F>();
        h.features.set(0);
        assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, 80), SYN)), Verdict::PASS);
    }

    pub(super) fn a_table_that_is_missing_leaves_the_node_alone<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        h.guard.set(Guard { slot: 77, ..h.guard.get() });
        assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, 80), SYN)), Verdict::PASS);
        assert_eq!(go::<F>(&h, &F::packet(NODE, WORLD, 17, &udp(999, 80))), Verdict::PASS);
        // a table that has lost its default of one direction
        let h = guarded::<F>();
        h.policy.borrow_mut().retain(|(slot, _, k), _| *slot != SLOT || k.direction == Direction::Egress as u8);
        assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, 80), SYN)), Verdict::PASS);
        assert!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (998, 80), SYN)).is_drop());
    }

    pub(super) fn only_the_nodes_own_traffic_is_judged<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        for (source, destination) in [(WORLD, A), (WORLD, REMOTE), (WORLD, OTHER_NODE), (REMOTE, B)] {
            assert_eq!(come::<F>(&h, &tcp_packet::<F>(source, destination, (999, 80), SYN)), Verdict::PASS);
            assert_eq!(go::<F>(&h, &tcp_packet::<F>(destination, source, (999, 80), SYN)), Verdict::PASS);
        }
        assert_eq!(connections::<F>(&h), 0);
        for peer in [WORLD, OTHER_NODE, REMOTE, A] {
            assert!(come::<F>(&h, &tcp_packet::<F>(peer, NODE, (999, 80), SYN)).is_drop(), "{peer}");
            assert!(go::<F>(&h, &tcp_packet::<F>(NODE, peer, (999, 80), SYN)).is_drop(), "{peer}");
        }
    }

    pub(super) fn what_is_denied_is_dropped_and_told<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        rule(&h, SLOT, Direction::Egress, 6, 6, 80, false);
        let v = come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, 80), SYN));
        assert_eq!((v.reason(), v.node), (Some(DropReason::PolicyDenied), 7));
        let v = go::<F>(&h, &tcp_packet::<F>(NODE, OTHER_NODE, (999, 80), SYN));
        assert_eq!((v.reason(), v.node), (Some(DropReason::PolicyDeny), 42));
        let drops = h.drops.borrow();
        let told: Vec<_> =
            drops.iter().map(|d| (d.direction, d.rule, d.source_identity, d.destination_identity)).collect();
        assert_eq!(told, [(0, 7, 2, 1), (1, 42, 1, 6)]);
        assert!(drops.iter().all(|d| d.destination_port == 80u16.to_be() && d.ifindex == UPLINK));
        assert_eq!(h.counts.borrow().len(), 2);
        assert_eq!(connections::<F>(&h), 0, "what is denied leaves nothing behind");
    }

    pub(super) fn answers_pass_by_their_connection<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        for (protocol, payload) in
            [(6, tcp as fn(u16, u16, u8) -> Vec<u8>), (17, |s, d, _| udp(s, d)), (132, |s, d, _| sctp_chunk(s, d))]
        {
            let h = guarded::<F>();
            rule(&h, SLOT, Direction::Ingress, 2, protocol, 80, true);
            rule(&h, SLOT, Direction::Egress, 2, protocol, 81, true);
            assert_eq!(come::<F>(&h, &F::packet(WORLD, NODE, protocol, &payload(999, 80, SYN))), Verdict::PASS);
            assert_eq!(go::<F>(&h, &F::packet(NODE, WORLD, protocol, &payload(80, 999, SYN | ACK))), Verdict::PASS);
            assert_eq!(go::<F>(&h, &F::packet(NODE, WORLD, protocol, &payload(999, 81, SYN))), Verdict::PASS);
            assert_eq!(come::<F>(&h, &F::packet(WORLD, NODE, protocol, &payload(81, 999, SYN | ACK))), Verdict::PASS);
            assert_eq!(connections::<F>(&h), 2);
            let t: &crate::host::Tables<F> = h.tables();
            assert!(t.guarded.borrow().values().all(|ct| ct.flags & FLAG_REPLIED != 0 && ct.packets == [1, 1]));
            assert!(come::<F>(&h, &F::packet(WORLD, NODE, protocol, &payload(999, 81, SYN))).is_drop());
            assert!(go::<F>(&h, &F::packet(NODE, WORLD, protocol, &payload(999, 80, SYN))).is_drop());
        }
    }

    pub(super) fn answers_without_a_connection_do_not_pass<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        rule(&h, SLOT, Direction::Egress, 2, 17, 53, true);
        // who sends from port 53 is no resolver by that
        assert!(come::<F>(&h, &F::packet(WORLD, NODE, 17, &udp(53, 999))).is_drop());
        assert_eq!(go::<F>(&h, &F::packet(NODE, WORLD, 17, &udp(999, 53))), Verdict::PASS);
        assert_eq!(come::<F>(&h, &F::packet(WORLD, NODE, 17, &udp(53, 999))), Verdict::PASS);
        assert!(come::<F>(&h, &F::packet(WORLD, NODE, 17, &udp(53, 998))).is_drop());
        h.now.set(h.now.get() + timeout(Timeout::DatagramReplied));
        assert!(come::<F>(&h, &F::packet(WORLD, NODE, 17, &udp(53, 999))).is_drop(), "it is over");
    }

    pub(super) fn what_was_open_before_the_guard_is_not_cut<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        rule(&h, SLOT, Direction::Ingress, 2, 6, 80, true);
        rule(&h, SLOT, Direction::Egress, 2, 6, 443, true);
        // of a connection that came in: either side speaks first
        assert_eq!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (80, 999), ACK)), Verdict::PASS);
        assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, 80), ACK)), Verdict::PASS);
        // of one that went out
        assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (443, 999), ACK)), Verdict::PASS);
        assert_eq!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (999, 443), ACK)), Verdict::PASS);
        assert_eq!(connections::<F>(&h), 2);
        // of one that policy does not allow either way
        assert!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (444, 999), ACK)).is_drop());
        assert!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (81, 999), ACK)).is_drop());
        // an SSH session, of which no rule speaks
        assert_eq!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (22, 999), ACK)), Verdict::PASS);
    }

    pub(super) fn nothing_is_opened_by_packets_that_open_nothing<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        rule(&h, SLOT, Direction::Egress, 2, 6, 443, true);
        // looks like an answer, and makes an entry in which the node began
        assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (443, 80), ACK)), Verdict::PASS);
        assert!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (443, 80), SYN)).is_drop(), "but opens no connection");
        assert!(go::<F>(&h, &tcp_packet::<F>(NODE, REMOTE, (80, 443), SYN)).is_drop());
    }

    pub(super) fn a_changed_table_judges_connections_again<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        rule(&h, SLOT, Direction::Ingress, 2, 6, 80, true);
        assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, 80), SYN)), Verdict::PASS);
        assert_eq!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (80, 999), SYN | ACK)), Verdict::PASS);
        rule(&h, SLOT, Direction::Ingress, 2, 6, 80, false);
        // egress to whatever port the client has is open: the connection is still one that came in
        rule(&h, SLOT, Direction::Egress, 2, 6, 999, true);
        for _ in 0..2 {
            assert!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, 80), ACK)).is_drop());
            assert!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (80, 999), ACK)).is_drop());
        }
        rule(&h, SLOT, Direction::Ingress, 2, 6, 80, true);
        assert_eq!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (80, 999), ACK)), Verdict::PASS);
        // an address that changes hands
        let t: &crate::host::Tables<F> = h.tables();
        let bits = if F::NUMBER == 4 { 32 } else { 128 };
        t.ipcache.borrow_mut().push((F::address(WORLD), bits, IpInfo::settled(Side::new(300, 300), 7, 0)));
        h.epoch.set(2);
        assert!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, 80), ACK)).is_drop());
    }

    pub(super) fn the_safe_set_passes_whatever_the_table_says<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        for direction in [Direction::Ingress, Direction::Egress] {
            for protocol in [6, 17] {
                for port in 0..=u16::MAX {
                    if axoneme_abi::guard::safe(direction as u8, protocol, port) != 0 {
                        rule(&h, SLOT, direction, 2, protocol, port, false);
                    }
                }
            }
        }
        let tcp_in = [22, 10250, 6443, 2379, 2380, 4240, 4244, 4250, 4251, 4252];
        let tcp_out = [53, 10250, 6443, 2379, 2380, 4240, 4244, 4250, 4251, 4252];
        for port in tcp_in {
            assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, port), SYN)), Verdict::PASS, "{port}");
            assert_eq!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (port, 999), SYN | ACK)), Verdict::PASS, "{port}");
        }
        for port in tcp_out {
            assert_eq!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (998, port), SYN)), Verdict::PASS, "{port}");
            assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (port, 998), SYN | ACK)), Verdict::PASS, "{port}");
        }
        for port in [68, 546, 8472, 6081] {
            assert_eq!(come::<F>(&h, &F::packet(WORLD, NODE, 17, &udp(999, port))), Verdict::PASS, "{port}");
        }
        for port in [67, 547, 53, 123, 8472, 6081] {
            assert_eq!(go::<F>(&h, &F::packet(NODE, WORLD, 17, &udp(998, port))), Verdict::PASS, "{port}");
        }
        assert!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (997, 22), SYN)).is_drop());
        assert!(come::<F>(&h, &F::packet(WORLD, NODE, 17, &udp(997, 53))).is_drop());
        let unreachable = if F::NUMBER == 4 { [3u8, 4] } else { [2, 0] };
        let mut error = Vec::from(unreachable);
        error.resize(36, 0);
        assert_eq!(come::<F>(&h, &F::packet(WORLD, NODE, F::ICMP, &error)), Verdict::PASS, "path MTU");
        if F::NUMBER == 6 {
            let mut solicitation = vec![135, 0];
            solicitation.resize(24, 0);
            assert_eq!(come::<F>(&h, &F::packet(OTHER_NODE, NODE, 58, &solicitation)), Verdict::PASS);
            assert_eq!(go::<F>(&h, &F::packet(NODE, OTHER_NODE, 58, &solicitation)), Verdict::PASS);
        }
    }

    pub(super) fn only_the_setting_that_names_a_member_takes_it_out<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        for bit in 0..32 {
            let h = guarded::<F>();
            h.guard.set(Guard { unprotected: 1 << bit, ..h.guard.get() });
            let v = come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (999, 22), SYN));
            assert_eq!(v.is_drop(), 1 << bit == SAFE_SSH, "bit {bit}");
        }
    }

    pub(super) fn the_overlays_port_and_the_api_servers_addresses_are_safe<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        assert!(come::<F>(&h, &F::packet(OTHER_NODE, NODE, 17, &udp(999, 4789))).is_drop());
        assert!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (999, 443), SYN)).is_drop());
        h.guard.set(Guard { overlay_port: 4789, ..h.guard.get() });
        let t: &crate::host::Tables<F> = h.tables();
        t.apiservers.borrow_mut().push(F::address(WORLD));
        assert_eq!(come::<F>(&h, &F::packet(OTHER_NODE, NODE, 17, &udp(999, 4789))), Verdict::PASS);
        assert!(come::<F>(&h, &tcp_packet::<F>(OTHER_NODE, NODE, (999, 4789), SYN)).is_drop());
        assert_eq!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (999, 443), SYN)), Verdict::PASS);
        assert!(go::<F>(&h, &F::packet(NODE, WORLD, 17, &udp(999, 443))).is_drop());
        assert!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (998, 443), SYN)).is_drop());
        h.guard.set(Guard { unprotected: SAFE_API_SERVER | SAFE_STREAMS, ..h.guard.get() });
        assert!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (997, 443), SYN)).is_drop());
        assert!(come::<F>(&h, &F::packet(OTHER_NODE, NODE, 17, &udp(997, 4789))).is_drop());
    }

    pub(super) fn what_the_node_passes_on_is_not_judged<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        for (protocol, payload) in [(6, tcp(999, 80, SYN)), (17, udp(999, 80))] {
            assert_eq!(pass_on::<F>(&h, &F::packet(NODE, WORLD, protocol, &payload)), Verdict::PASS);
        }
        let unknown = F::packet(NODE, WORLD, 6, &[0; 3]);
        assert_eq!(pass_on::<F>(&h, &unknown), Verdict::PASS, "unreadable as it may be");
        for _ in 0..2 {
            assert_eq!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (80, 999), SYN | ACK)), Verdict::PASS);
            assert_eq!(come::<F>(&h, &F::packet(WORLD, NODE, 17, &udp(80, 999))), Verdict::PASS);
            // whatever the node's own table comes to say
            default(&h, SLOT, Direction::Ingress, false);
        }
        assert!(h.flows.borrow().is_empty() && h.drops.borrow().is_empty(), "the pods' stages tell of it");
        assert!(come::<F>(&h, &tcp_packet::<F>(WORLD, NODE, (80, 998), SYN)).is_drop());
    }

    pub(super) fn later_fragments_follow_the_first<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        let fragment = |offset: u16, more: bool, payload: &[u8]| {
            if F::NUMBER == 4 {
                let mut p = F::packet(WORLD, NODE, 17, payload);
                let field = offset | if more { 0x2000 } else { 0 };
                p[20..22].copy_from_slice(&field.to_be_bytes());
                p
            } else {
                let field = offset << 3 | u16::from(more);
                let mut extended = vec![17, 0];
                extended.extend(field.to_be_bytes());
                extended.extend([0, 0, 0, 1]);
                extended.extend(payload);
                F::packet(WORLD, NODE, 44, &extended)
            }
        };
        assert!(come::<F>(&h, &fragment(0, true, &udp(999, 80))).is_drop(), "the first one is judged");
        assert_eq!(come::<F>(&h, &fragment(2, false, &[0; 8])), Verdict::PASS, "what is left is never whole");
        assert_eq!(connections::<F>(&h), 0);
        rule(&h, SLOT, Direction::Ingress, 2, 17, 80, true);
        assert_eq!(come::<F>(&h, &fragment(0, true, &udp(999, 80))), Verdict::PASS);
        assert_eq!(come::<F>(&h, &fragment(2, false, &[0; 8])), Verdict::PASS);
        let cut = fragment(0, true, &[0, 1]);
        assert_eq!(come::<F>(&h, &cut).reason(), Some(DropReason::TruncatedHeader), "a first one without its ports");
    }

    pub(super) fn echo_is_judged_by_its_type<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        let request = F::packet(WORLD, NODE, F::ICMP, &echo::<F>(true, 5));
        assert!(come::<F>(&h, &request).is_drop());
        assert!(come::<F>(&h, &F::packet(WORLD, NODE, F::ICMP, &echo::<F>(false, 5))).is_drop());
        rule(&h, SLOT, Direction::Ingress, 2, F::ICMP, u16::from(F::ECHO), true);
        assert_eq!(come::<F>(&h, &request), Verdict::PASS);
        // the kernel's answer has no socket
        assert_eq!(pass_on::<F>(&h, &F::packet(NODE, WORLD, F::ICMP, &echo::<F>(false, 5))), Verdict::PASS);
        assert!(go::<F>(&h, &F::packet(NODE, WORLD, F::ICMP, &echo::<F>(true, 6))).is_drop());
    }

    pub(super) fn protocols_without_ports_are_judged<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        let vrrp = F::packet(OTHER_NODE, NODE, 112, &[0; 8]);
        assert!(come::<F>(&h, &vrrp).is_drop());
        rule(&h, SLOT, Direction::Ingress, 6, 112, 0, true);
        assert_eq!(come::<F>(&h, &vrrp), Verdict::PASS);
        assert_eq!(go::<F>(&h, &F::packet(NODE, OTHER_NODE, 112, &[0; 8])), Verdict::PASS, "its answer");
    }

    pub(super) fn errors_about_connections_come_in<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        h.guard.set(Guard { unprotected: SAFE_PATH_ERRORS, ..h.guard.get() });
        let about = |own: &[u8]| {
            let mut error = if F::NUMBER == 4 { vec![3, 4, 0, 0, 0, 0, 5, 0] } else { vec![2, 0, 0, 0, 0, 0, 5, 0] };
            error.extend(&own[14..]);
            F::packet(OTHER_NODE, NODE, F::ICMP, &error)
        };
        let sent = tcp_packet::<F>(NODE, WORLD, (999, 443), SYN);
        assert!(come::<F>(&h, &about(&sent)).is_drop(), "nobody sent that");
        rule(&h, SLOT, Direction::Egress, 2, 6, 443, true);
        assert_eq!(go::<F>(&h, &sent), Verdict::PASS);
        assert_eq!(come::<F>(&h, &about(&sent)), Verdict::PASS);
        assert!(come::<F>(&h, &about(&tcp_packet::<F>(NODE, WORLD, (998, 443), SYN))).is_drop());
        assert!(come::<F>(&h, &about(&tcp_packet::<F>(WORLD, NODE, (443, 999), ACK))).is_drop(), "not what it sent");
    }

    pub(super) fn unreadable_packets_to_the_node_are_dropped<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        let cut = F::packet(WORLD, NODE, 6, &[0; 3]);
        assert_eq!(come::<F>(&h, &cut).reason(), Some(DropReason::TruncatedHeader));
        assert_eq!(go::<F>(&h, &F::packet(NODE, WORLD, 6, &[0; 3])).reason(), Some(DropReason::TruncatedHeader));
        assert_eq!(
            come::<F>(&h, &F::packet(WORLD, A, 6, &[0; 3])),
            Verdict::PASS,
            "a pod's is the pod's stages' affair"
        );
        assert_eq!(h.drops.borrow().len(), 2);
        assert_eq!(come::<F>(&h, &cut[..20]), Verdict::PASS, "without addresses it is nobody's");
    }

    pub(super) fn audit_passes_and_is_told_once<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        for (direction, bit) in [(Direction::Ingress, 1), (Direction::Egress, 2)] {
            let h = guarded::<F>();
            let key = PolicyKey { peer: 0, direction: direction as u8, protocol: 0, port: 0 };
            let value = PolicyValue { rule: 8, verdict: DEFAULT_AUDIT, ..PolicyValue::default() };
            h.policy.borrow_mut().insert((SLOT, PREFIX_FIXED, key), value);
            let (first, answer) =
                (tcp_packet::<F>(WORLD, NODE, (999, 80), SYN), tcp_packet::<F>(NODE, WORLD, (80, 999), SYN | ACK));
            let (out, back) =
                (tcp_packet::<F>(NODE, WORLD, (999, 80), SYN), tcp_packet::<F>(WORLD, NODE, (80, 999), SYN | ACK));
            if direction == Direction::Ingress {
                assert!(!come::<F>(&h, &first).is_drop() && !go::<F>(&h, &answer).is_drop());
            } else {
                assert!(!go::<F>(&h, &out).is_drop() && !come::<F>(&h, &back).is_drop());
            }
            let flows = h.flows.borrow();
            assert_eq!(flows.len(), 1);
            let rule = if direction == Direction::Ingress { flows[0].rule } else { flows[0].egress_rule };
            assert_eq!((flows[0].audit, rule), (bit, 8));
            let (met, towards) = match direction {
                Direction::Ingress => (hook::FROM_NETDEV, Action::Stack),
                Direction::Egress => (hook::FROM_HOST, Action::NextHop),
            };
            assert_eq!((flows[0].hook, flows[0].towards), (met, towards as u16));
        }
    }

    pub(super) fn an_ended_connection_opens_anew<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = guarded::<F>();
        rule(&h, SLOT, Direction::Ingress, 2, 6, 80, true);
        let syn = tcp_packet::<F>(WORLD, NODE, (999, 80), SYN);
        assert_eq!(come::<F>(&h, &syn), Verdict::PASS);
        assert_eq!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (80, 999), RST | ACK)), Verdict::PASS);
        let kinds = |h: &Host| h.flows.borrow().iter().map(|f| f.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&h), [EventKind::New as u8, EventKind::Closed as u8]);
        assert_eq!(come::<F>(&h, &syn), Verdict::PASS);
        assert_eq!(kinds(&h).len(), 3);
        rule(&h, SLOT, Direction::Ingress, 2, 6, 80, false);
        assert!(come::<F>(&h, &syn).is_drop());
        // a SYN from the other end is no answer
        assert!(go::<F>(&h, &tcp_packet::<F>(NODE, WORLD, (80, 999), SYN)).is_drop());
    }
}
