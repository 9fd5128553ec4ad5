//! Conntrack, policy, TCP's states.

super::both_families!(
    a_connection_is_one_entry_for_both_directions,
    denied_without_a_rule_that_allows,
    answers_pass_without_a_rule,
    a_deny_reaches_an_open_connection,
    an_answering_syn_is_no_answer,
    fins_and_resets_close,
    an_end_takes_the_short_way,
    a_header_too_short_ends_nothing,
    a_syn_reopens_a_closed_connection,
    an_expired_entry_counts_as_none,
    an_unanswered_datagram_expires_sooner,
    ping_is_a_connection,
    an_unasked_echo_reply_is_judged_by_its_type,
    the_node_reaches_its_pods_whatever_policy_says,
    counters_count_both_ends,
    events_tell_where_their_packet_comes_from,
    a_slot_without_default_lets_nothing_pass,
    authentication_that_is_asked_for_is_a_drop,
);

mod inner {
    use super::super::*;

    pub(super) fn a_connection_is_one_entry_for_both_directions<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let there = F::packet(A, B, 6, &tcp(4000, 80, SYN));
        let back = F::packet(B, A, 6, &tcp(80, 4000, SYN | ACK));
        assert_eq!(from_pod::<F>(&h, LINK_A, &there), Verdict::local(LINK_B));
        assert_eq!(entry::<F>(&h).flags & FLAG_REPLIED, 0);
        assert_eq!(from_pod::<F>(&h, LINK_B, &back), Verdict::local(LINK_A));
        assert_ne!(entry::<F>(&h).flags & FLAG_REPLIED, 0);
        // Now the short way knows it, in both directions.
        for (link, p, to) in [
            (LINK_A, F::packet(A, B, 6, &tcp(4000, 80, ACK)), LINK_B),
            (LINK_B, F::packet(B, A, 6, &tcp(80, 4000, ACK)), LINK_A),
        ] {
            let buffer = Buffer::new(&p, link);
            assert_eq!(fast::<F, _, _, { hook::FROM_CONTAINER }>(&h, &buffer), Some(Verdict::local(to)));
        }
        assert_eq!(h.flows.borrow().len(), 1);
        assert_eq!(h.flows.borrow()[0].kind, EventKind::New as u8);
    }

    pub(super) fn denied_without_a_rule_that_allows<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let p = F::packet(A, B, 6, &tcp(4000, 80, SYN));
        default(&h, 2, Direction::Ingress, false);
        let v = from_pod::<F>(&h, LINK_A, &p);
        assert_eq!(v, Verdict::denied(DropReason::PolicyDenied, Direction::Ingress, 7));
        rule(&h, 2, Direction::Ingress, 101, 6, 81, true);
        assert!(from_pod::<F>(&h, LINK_A, &p).is_drop());
        rule(&h, 2, Direction::Ingress, 101, 6, 80, true);
        assert_eq!(from_pod::<F>(&h, LINK_A, &p), Verdict::local(LINK_B));
        default(&h, 1, Direction::Egress, false);
        let v = from_pod::<F>(&h, LINK_A, &p);
        assert_eq!(v, Verdict::denied(DropReason::PolicyDenied, Direction::Egress, 7));
        let drops = h.drops.borrow();
        assert_eq!(drops.len(), 3);
        assert!(drops.iter().all(|d| d.source_identity == 101 && d.destination_identity == 102));
    }

    pub(super) fn answers_pass_without_a_rule<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        default(&h, 1, Direction::Ingress, false);
        default(&h, 2, Direction::Egress, false);
        assert_eq!(from_pod::<F>(&h, LINK_A, &F::packet(A, B, 17, &udp(5000, 53))), Verdict::local(LINK_B));
        assert_eq!(from_pod::<F>(&h, LINK_B, &F::packet(B, A, 17, &udp(53, 5000))), Verdict::local(LINK_A));
        assert!(from_pod::<F>(&h, LINK_B, &F::packet(B, A, 17, &udp(53, 5001))).is_drop());
    }

    pub(super) fn a_deny_reaches_an_open_connection<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let there = F::packet(A, B, 17, &udp(5000, 53));
        let back = F::packet(B, A, 17, &udp(53, 5000));
        assert!(!from_pod::<F>(&h, LINK_A, &there).is_drop() && !from_pod::<F>(&h, LINK_B, &back).is_drop());
        rule(&h, 2, Direction::Ingress, 101, 17, 53, false);
        let v = from_pod::<F>(&h, LINK_A, &there);
        assert_eq!(v, Verdict::denied(DropReason::PolicyDeny, Direction::Ingress, 42));
        // The answers too: the connection is judged in its originator's direction, whoever sends.
        assert_eq!(from_pod::<F>(&h, LINK_B, &back), v);
        rule(&h, 2, Direction::Ingress, 101, 17, 53, true);
        assert_eq!(from_pod::<F>(&h, LINK_B, &back), Verdict::local(LINK_A));
        assert_eq!(h.flows.borrow().len(), 1, "it is still the same connection");
    }

    pub(super) fn an_answering_syn_is_no_answer<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        default(&h, 1, Direction::Ingress, false);
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, SYN)));
        assert!(from_pod::<F>(&h, LINK_B, &F::packet(B, A, 6, &tcp(80, 4000, SYN))).is_drop());
        assert!(!from_pod::<F>(&h, LINK_B, &F::packet(B, A, 6, &tcp(80, 4000, SYN | ACK))).is_drop());
    }

    fn opened<F: Testable>() -> Host
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, SYN)));
        let _ = from_pod::<F>(&h, LINK_B, &F::packet(B, A, 6, &tcp(80, 4000, SYN | ACK)));
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, ACK)));
        h
    }

    pub(super) fn fins_and_resets_close<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = opened::<F>();
        assert_eq!(entry::<F>(&h).expires, 1000 + timeout(Timeout::Established));
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, FIN | ACK)));
        assert_eq!(entry::<F>(&h).expires, 1000 + timeout(Timeout::HalfClosed));
        let _ = from_pod::<F>(&h, LINK_B, &F::packet(B, A, 6, &tcp(80, 4000, FIN | ACK)));
        assert_eq!(entry::<F>(&h).expires, 1000 + timeout(Timeout::Closing));
        assert_ne!(entry::<F>(&h).flags & FLAG_CLOSED, 0);
        // The last ACK still passes, and the end is told once.
        assert_eq!(from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, ACK))), Verdict::local(LINK_B));
        let kinds: Vec<_> = h.flows.borrow().iter().map(|f| f.kind).collect();
        assert_eq!(kinds, [EventKind::New as u8, EventKind::Closed as u8]);
        let h = opened::<F>();
        assert_eq!(from_pod::<F>(&h, LINK_B, &F::packet(B, A, 6, &tcp(80, 4000, RST))), Verdict::local(LINK_A));
        assert_ne!(entry::<F>(&h).flags & FLAG_CLOSED, 0);
    }

    pub(super) fn an_end_takes_the_short_way<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = opened::<F>();
        let short = |link, from, to, ports: (u16, u16), flags| {
            let buffer = Buffer::new(&F::packet(from, to, 6, &tcp(ports.0, ports.1, flags)), link);
            fast::<F, _, _, { hook::FROM_CONTAINER }>(&h, &buffer)
        };
        assert_eq!(short(LINK_A, A, B, (4000, 80), FIN | ACK), Some(Verdict::local(LINK_B)));
        assert_eq!(short(LINK_B, B, A, (80, 4000), ACK), Some(Verdict::local(LINK_A)));
        assert_eq!(entry::<F>(&h).expires, 1000 + timeout(Timeout::HalfClosed), "half closed, whoever speaks");
        assert_eq!(short(LINK_B, B, A, (80, 4000), FIN | ACK), Some(Verdict::local(LINK_A)));
        assert_eq!(entry::<F>(&h).expires, 1000 + timeout(Timeout::Closing));
        assert_eq!(h.flows.borrow().last().map(|f| (f.kind, f.hook)), Some((EventKind::Closed as u8, 0)));
        // What is over, opens, or contradicts itself is for the long way.
        assert_eq!(short(LINK_A, A, B, (4000, 80), ACK), None);
        let h = opened::<F>();
        for flags in [SYN, SYN | RST, SYN | FIN | ACK] {
            let buffer = Buffer::new(&F::packet(A, B, 6, &tcp(4000, 80, flags)), LINK_A);
            assert_eq!(fast::<F, _, _, { hook::FROM_CONTAINER }>(&h, &buffer), None, "{flags}");
        }
    }

    pub(super) fn a_header_too_short_ends_nothing<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = opened::<F>();
        for flags in [ACK, RST, FIN | ACK] {
            let mut p = F::packet(A, B, 6, &tcp(4000, 80, flags));
            p[F::HEADER + 12] = 0x40;
            assert_eq!(from_pod::<F>(&h, LINK_A, &p).reason(), Some(DropReason::InvalidPacket));
        }
        assert_eq!(entry::<F>(&h).expires, 1000 + timeout(Timeout::Established));
    }

    pub(super) fn a_syn_reopens_a_closed_connection<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = opened::<F>();
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, RST)));
        assert_eq!(from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, SYN))), Verdict::local(LINK_B));
        let e = entry::<F>(&h);
        assert_eq!(e.flags & (FLAG_CLOSED | FLAG_REPLIED), 0);
        assert_eq!(e.packets.iter().sum::<u32>(), 1);
        assert_eq!(h.flows.borrow().last().unwrap().kind, EventKind::New as u8);
    }

    pub(super) fn an_expired_entry_counts_as_none<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = opened::<F>();
        default(&h, 2, Direction::Egress, false);
        h.now.set(1000 + timeout(Timeout::Established));
        // The server's data is no answer any more; the client's is judged as new.
        assert!(from_pod::<F>(&h, LINK_B, &F::packet(B, A, 6, &tcp(80, 4000, ACK))).is_drop());
        assert_eq!(from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, ACK))), Verdict::local(LINK_B));
        assert_eq!(from_pod::<F>(&h, LINK_B, &F::packet(B, A, 6, &tcp(80, 4000, ACK))), Verdict::local(LINK_A));
    }

    pub(super) fn an_unanswered_datagram_expires_sooner<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 17, &udp(5000, 53)));
        assert_eq!(entry::<F>(&h).expires, 1000 + timeout(Timeout::Datagram));
        let _ = from_pod::<F>(&h, LINK_B, &F::packet(B, A, 17, &udp(53, 5000)));
        assert_eq!(entry::<F>(&h).expires, 1000 + timeout(Timeout::DatagramReplied));
    }

    pub(super) fn ping_is_a_connection<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        default(&h, 1, Direction::Ingress, false);
        default(&h, 2, Direction::Ingress, false);
        let ask = F::packet(A, B, F::ICMP, &echo::<F>(true, 77));
        assert!(from_pod::<F>(&h, LINK_A, &ask).is_drop());
        rule(&h, 2, Direction::Ingress, 101, F::ICMP, u16::from(F::ECHO), true);
        assert_eq!(from_pod::<F>(&h, LINK_A, &ask), Verdict::local(LINK_B));
        let answer = F::packet(B, A, F::ICMP, &echo::<F>(false, 77));
        assert_eq!(from_pod::<F>(&h, LINK_B, &answer), Verdict::local(LINK_A));
        assert!(from_pod::<F>(&h, LINK_B, &F::packet(B, A, F::ICMP, &echo::<F>(false, 78))).is_drop());
    }

    pub(super) fn an_unasked_echo_reply_is_judged_by_its_type<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        default(&h, 1, Direction::Ingress, false);
        let reply_type = if F::NUMBER == 4 { 0 } else { 129 };
        let p = F::packet(B, A, F::ICMP, &echo::<F>(false, 5));
        assert!(from_pod::<F>(&h, LINK_B, &p).is_drop());
        rule(&h, 1, Direction::Ingress, 102, F::ICMP, reply_type, true);
        assert_eq!(from_pod::<F>(&h, LINK_B, &p), Verdict::local(LINK_A));
    }

    pub(super) fn the_node_reaches_its_pods_whatever_policy_says<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        default(&h, 2, Direction::Ingress, false);
        let p = F::packet(NODE, B, 6, &tcp(5000, 80, SYN));
        assert_eq!(meet::<F, { hook::TO_CONTAINER }>(&h, LINK_B, &p).0, Verdict::PASS);
        assert_eq!(h.flows.borrow().last().map(|f| f.rule), Some(0), "what denies it did not decide");
        assert_eq!(from_pod::<F>(&h, LINK_B, &F::packet(B, NODE, 6, &tcp(80, 5000, SYN | ACK))), Verdict::PASS);
        // The table's rule for it is named.
        rule(&h, 2, Direction::Ingress, IDENTITY_HOST, 6, 81, true);
        let p81 = F::packet(NODE, B, 6, &tcp(5001, 81, SYN));
        assert_eq!(meet::<F, { hook::TO_CONTAINER }>(&h, LINK_B, &p81).0, Verdict::PASS);
        assert_eq!(h.flows.borrow().last().map(|f| f.rule), Some(42));
        // Another configuration is another program, which begins with no judgements.
        h.features.set(h.features.get() & !feature::ALLOW_OWN_HOST);
        h.judgements.borrow_mut().clear();
        h.epoch.set(1);
        assert!(meet::<F, { hook::TO_CONTAINER }>(&h, LINK_B, &p).0.is_drop());
        // Another node has no such right.
        h.features.set(h.features.get() | feature::ALLOW_OWN_HOST);
        h.judgements.borrow_mut().clear();
        let p = F::packet(OTHER_NODE, B, 6, &tcp(5000, 80, SYN));
        assert!(meet::<F, { hook::TO_CONTAINER }>(&h, LINK_B, &p).0.is_drop());
    }

    pub(super) fn counters_count_both_ends<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = opened::<F>();
        let length = u64::try_from(F::HEADER + 20).unwrap();
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, ACK)));
        let _ = from_pod::<F>(&h, LINK_B, &F::packet(B, A, 6, &tcp(80, 4000, RST)));
        let flows = h.flows.borrow();
        let closed = flows.last().unwrap();
        assert_eq!((closed.packets, closed.detail), ([3, 2], [3 * length, 2 * length]));
        assert_eq!(closed.source, F::words(F::address(A)));
        assert_eq!((closed.source_identity, closed.destination_identity), (101, 102));
    }

    pub(super) fn events_tell_where_their_packet_comes_from<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, SYN)));
        let _ = meet::<F, { hook::FROM_OVERLAY }>(&h, OVERLAY, &F::packet(REMOTE, B, 6, &tcp(4001, 80, SYN)));
        h.features.set(h.features.get() & !feature::FLOWS);
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4002, 80, SYN)));
        let told: Vec<_> = h.flows.borrow().iter().map(|f| f.detail).collect();
        assert_eq!(told, [SOCKET, [103, 0], [0, 0]], "nobody is asked for what nobody is told");
        default(&h, 2, Direction::Ingress, false);
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4003, 80, SYN)));
        let _ = meet::<F, { hook::FROM_OVERLAY }>(&h, OVERLAY, &F::packet(REMOTE, B, 6, &tcp(4004, 80, SYN)));
        let told: Vec<_> = h.drops.borrow().iter().map(|d| d.sender).collect();
        assert_eq!(told, [SOCKET, [103, 0]]);
    }

    pub(super) fn a_slot_without_default_lets_nothing_pass<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        h.policy.borrow_mut().retain(|k, _| k.0 != 2);
        let v = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, SYN)));
        assert_eq!(v, Verdict::drop(DropReason::NoPolicy, Direction::Ingress));
    }

    pub(super) fn authentication_that_is_asked_for_is_a_drop<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        rule(&h, 2, Direction::Ingress, 101, 6, 80, true);
        h.policy.borrow_mut().values_mut().filter(|v| v.rule == 42).for_each(|v| v.auth = 1);
        let v = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(4000, 80, SYN)));
        assert_eq!(v, Verdict::denied(DropReason::AuthRequired, Direction::Ingress, 42));
    }
}
