//! Answers to what a pod's own egress policy denies.

super::both_families!(
    what_egress_policy_denies_is_answered_at_once,
    without_the_setting_nothing_is_answered,
    an_answer_to_a_packet_to_a_service_names_the_service,
    what_an_ingress_policy_denies_is_not_answered,
    a_connection_that_comes_to_be_denied_is_answered_to_who_opened_it,
    what_is_audited_is_not_answered,
    what_must_not_be_answered_is_not,
    answers_are_limited_by_sender_and_tick,
);

/// Whether something may be the end of an answer.
#[test]
fn an_address_of_one_host_is_told_from_others() {
    use crate::{Family, V4, V6};
    let v4 = |a: [u8; 4]| V4::is_single(u32::from_ne_bytes(a));
    assert!(
        [[1, 0, 0, 0], [10, 0, 0, 1], [126, 255, 255, 255], [128, 0, 0, 0], [223, 255, 255, 255]].map(v4) == [true; 5]
    );
    assert!([[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]].map(v4) == [false; 5]);
    let v6 = |high: [u8; 8], low: u8| {
        V6::is_single([u64::from_ne_bytes(high), u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, low])])
    };
    assert!(
        v6([0xfd, 0, 0, 0, 0, 0, 0, 0], 0)
            && v6([0x20, 1, 0, 0, 0, 0, 0, 0], 1)
            && v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0], 1)
    );
    assert!(!v6([0; 8], 0) && !v6([0; 8], 1) && !v6([0xff, 2, 0, 0, 0, 0, 0, 0], 1));
}

mod inner {
    use super::super::*;
    use axoneme_abi::tables::ANSWERS_PER_TICK;

    /// The small world, where what is denied is answered and the first pod may send nothing.
    fn closed() -> Host {
        let h = world(false);
        h.features.set(h.features.get() | feature::ANSWER_DENIED);
        default(&h, 1, Direction::Egress, false);
        h
    }

    /// From the first pod.
    fn sent<F: Testable>(h: &Host, packet: &[u8]) -> (Verdict, Vec<u8>)
    where
        Host: HasTables<F> + Maps<F>,
    {
        meet::<F, { hook::FROM_CONTAINER }>(h, LINK_A, packet)
    }

    /// One of each that asks for something.
    fn questions<F: Testable>(to: u8) -> [Vec<u8>; 4]
    where
        Host: HasTables<F> + Maps<F>,
    {
        [
            F::packet(A, to, 6, &tcp(4000, 80, SYN)),
            F::packet(A, to, 17, &udp(4000, 53)),
            F::packet(A, to, F::ICMP, &echo::<F>(true, 9)),
            F::packet(A, to, 132, &tcp(4000, 80, 0)),
        ]
    }

    /// Holds that a packet is the answer to another.
    fn is_answer<F: Testable>(answer: &[u8], to: &[u8])
    where
        Host: HasTables<F> + Maps<F>,
    {
        let (source, size) = if F::NUMBER == 4 { (26, 4) } else { (22, 16) };
        assert_eq!((&answer[..6], &answer[6..12]), (&to[6..12], &to[..6]), "link-layer addresses the other way round");
        assert_eq!(answer[12..14], to[12..14]);
        assert_eq!(answer[source..source + size], to[source + size..source + 2 * size], "from who was asked");
        assert_eq!(answer[source + size..source + 2 * size], to[source..source + size], "to who asked");
        assert_eq!(answer[F::HEADER..F::HEADER + 2], if F::NUMBER == 4 { [3, 13] } else { [1, 1] });
        assert_eq!(answer[F::HEADER + 4..F::HEADER + 8], [0; 4], "an unused word");
        assert_eq!(answer[F::HEADER + 8..], to[14..F::HEADER + 8], "the header and eight bytes, as they were sent");
        assert!(sums_are_right::<F>(answer, F::ICMP));
        let next = if F::NUMBER == 4 { answer[23] } else { answer[20] };
        assert_eq!(next, F::ICMP);
        let length = if F::NUMBER == 4 { (16, answer.len() - 14) } else { (18, answer.len() - F::HEADER) };
        assert_eq!(answer[length.0..length.0 + 2], u16::try_from(length.1).unwrap().to_be_bytes());
    }

    pub(super) fn what_egress_policy_denies_is_answered_at_once<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        for to in [B, REMOTE, OTHER_NODE, WORLD] {
            let (h, silent) = (closed(), closed());
            silent.features.set(silent.features.get() & !feature::ANSWER_DENIED);
            for packet in questions::<F>(to) {
                let (v, answer) = sent::<F>(&h, &packet);
                assert_eq!((v.kind, v.reason(), v.node), (Kind::Reject, Some(DropReason::PolicyDenied), 7));
                is_answer::<F>(&answer, &packet);
                assert_eq!(
                    sent::<F>(&silent, &packet).0,
                    Verdict::denied(DropReason::PolicyDenied, Direction::Egress, 7)
                );
            }
            assert_eq!(*h.drops.borrow(), *silent.drops.borrow(), "told as the same drops");
            assert_eq!(*h.counts.borrow(), *silent.counts.borrow());
            assert_eq!((h.drops.borrow().len(), h.flows.borrow().len()), (4, 0));
            let t: &crate::host::Tables<F> = h.tables();
            assert!(t.conntrack.borrow().is_empty());
        }
        // By a rule as by the default; what is allowed is not touched.
        let h = closed();
        rule(&h, 1, Direction::Egress, 102, 6, 80, true);
        rule(&h, 1, Direction::Egress, 102, 17, 53, false);
        let [syn, datagram, ..] = questions::<F>(B);
        assert_eq!(sent::<F>(&h, &syn), (Verdict::local(LINK_B), syn));
        let (v, answer) = sent::<F>(&h, &datagram);
        assert_eq!((v.kind, v.reason(), v.node), (Kind::Reject, Some(DropReason::PolicyDeny), 42));
        is_answer::<F>(&answer, &datagram);
    }

    pub(super) fn without_the_setting_nothing_is_answered<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = closed();
        h.features.set(h.features.get() & !feature::ANSWER_DENIED);
        for packet in questions::<F>(WORLD) {
            assert_eq!(
                sent::<F>(&h, &packet),
                (Verdict::denied(DropReason::PolicyDenied, Direction::Egress, 7), packet)
            );
        }
    }

    pub(super) fn an_answer_to_a_packet_to_a_service_names_the_service<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = closed();
        let t: &crate::host::Tables<F> = h.tables();
        let service = Service { set: 1, count: 1, ..Service::default() };
        t.services.borrow_mut().insert(F::service_key(F::address(VIP), 80u16.to_be(), 6), service);
        let choice = Choice { address: F::address(B), port: 8080u16.to_be(), expires: 0 };
        t.backends.borrow_mut().insert(BackendKey { set: 1, index: 0 }, F::backend(choice));
        let packet = F::packet(A, VIP, 6, &tcp(4000, 80, SYN));
        for _ in 0..2 {
            let (v, answer) = sent::<F>(&h, &packet);
            assert_eq!((v.kind, v.reason()), (Kind::Reject, Some(DropReason::PolicyDenied)));
            is_answer::<F>(&answer, &packet);
        }
        assert_eq!(u16::from_be(h.drops.borrow()[0].destination_port), 8080, "what was judged is what is told");
    }

    pub(super) fn what_an_ingress_policy_denies_is_not_answered<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = closed();
        default(&h, 1, Direction::Egress, true);
        default(&h, 2, Direction::Ingress, false);
        for packet in questions::<F>(B) {
            assert_eq!(
                sent::<F>(&h, &packet),
                (Verdict::denied(DropReason::PolicyDenied, Direction::Ingress, 7), packet)
            );
        }
        let packet = F::packet(REMOTE, B, 6, &tcp(4000, 80, SYN));
        assert_eq!(meet::<F, { hook::FROM_OVERLAY }>(&h, OVERLAY, &packet).0.kind, Kind::Drop);
        // Where both ends deny it, it is the sender's policy that does.
        default(&h, 1, Direction::Egress, false);
        assert_eq!(sent::<F>(&h, &questions::<F>(B)[0]).0.kind, Kind::Reject);
    }

    pub(super) fn a_connection_that_comes_to_be_denied_is_answered_to_who_opened_it<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = closed();
        default(&h, 1, Direction::Egress, true);
        let (there, back) = (F::packet(A, B, 17, &udp(4000, 53)), F::packet(B, A, 17, &udp(53, 4000)));
        assert_eq!(sent::<F>(&h, &there).0, Verdict::local(LINK_B));
        assert_eq!(from_pod::<F>(&h, LINK_B, &back), Verdict::local(LINK_A));
        default(&h, 1, Direction::Egress, false);
        let (v, after) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_B, &back);
        assert_eq!((v.kind, v.reason()), (Kind::Drop, Some(DropReason::PolicyDenied)), "it is not his to send or not");
        assert_eq!(after, back);
        let (v, answer) = sent::<F>(&h, &there);
        assert_eq!(v.kind, Kind::Reject);
        is_answer::<F>(&answer, &there);
    }

    pub(super) fn what_is_audited_is_not_answered<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = closed();
        let key = PolicyKey { peer: 0, direction: Direction::Egress as u8, protocol: 0, port: 0 };
        let audit = PolicyValue { rule: 7, verdict: DEFAULT_AUDIT, ..PolicyValue::default() };
        h.policy.borrow_mut().insert((1, PREFIX_FIXED, key), audit);
        for packet in questions::<F>(B) {
            assert_eq!(sent::<F>(&h, &packet), (Verdict::local(LINK_B), packet));
        }
    }

    pub(super) fn what_must_not_be_answered_is_not<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = closed();
        let [syn, datagram, request, _] = questions::<F>(WORLD);
        let destination = if F::NUMBER == 4 { 30 } else { 38 };
        let to = |address: &[u8]| {
            let mut p = datagram.clone();
            p[destination..destination + address.len()].copy_from_slice(address);
            p
        };
        let icmp = |kind: u8| {
            let mut p = [&request[..], &datagram[14..]].concat();
            p[F::HEADER] = kind;
            let length = u16::try_from(p.len() - if F::NUMBER == 4 { 14 } else { F::HEADER }).unwrap();
            let at = if F::NUMBER == 4 { 16 } else { 18 };
            p[at..at + 2].copy_from_slice(&length.to_be_bytes());
            p
        };
        let mut to_group_of_links = datagram.clone();
        to_group_of_links[0] |= 1;
        let mut all = vec![to_group_of_links, F::packet(A, WORLD, 6, &tcp(4000, 80, RST))];
        // Too short to carry eight bytes back.
        all.push(F::packet(A, WORLD, 47, &[0; 7]));
        if F::NUMBER == 4 {
            for address in [[224, 0, 0, 1], [255; 4], [240, 0, 0, 1], [127, 0, 0, 1], [0; 4]] {
                all.push(to(&address));
            }
            // Errors, redirects, answers, and what nobody sends any more.
            all.extend([0, 3, 4, 5, 11, 12, 13, 14].map(icmp));
            let mut options = datagram.clone();
            options[14] = 0x46;
            options.splice(34..34, [1; 4]);
            let length = u16::try_from(options.len() - 14).unwrap();
            options[16..18].copy_from_slice(&length.to_be_bytes());
            all.push(options);
        } else {
            let mut group = [0; 16];
            group[..2].copy_from_slice(&[0xff, 0x02]);
            let mut own = [0; 16];
            own[15] = 1;
            all.extend([to(&group), to(&own), to(&[0; 16])]);
            all.extend([1, 2, 3, 4, 129, 138, 200].map(icmp));
        }
        for packet in &all {
            let (v, after) = sent::<F>(&h, packet);
            assert_eq!((v.kind, &after), (Kind::Drop, packet), "{packet:02x?}");
        }
        assert!(h.answers.borrow().values().all(|a| a.count <= 1), "what is not answered uses nothing up");
        if F::NUMBER == 4 {
            // The first fragment tells enough; the others are silent, as are those whose first one was not seen.
            let mut first = datagram.clone();
            first[20] = 0x20;
            let mut later = datagram;
            later[21] = 9;
            assert_eq!(sent::<F>(&h, &first).0.kind, Kind::Reject);
            let (v, after) = sent::<F>(&h, &later);
            assert_eq!((v.kind, v.reason(), after), (Kind::Drop, Some(DropReason::PolicyDenied), later));
        }
        assert_eq!(sent::<F>(&h, &syn).0.kind, Kind::Reject, "the world is one in which there are answers");
        // Somebody else's name.
        let (v, _) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_B, &syn);
        assert_eq!((v.kind, v.reason()), (Kind::Drop, Some(DropReason::InvalidSourceIp)));
    }

    pub(super) fn answers_are_limited_by_sender_and_tick<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = closed();
        default(&h, 2, Direction::Egress, false);
        let t: &crate::host::Tables<F> = h.tables();
        t.services.borrow_mut().insert(F::service_key(F::address(VIP), 81u16.to_be(), 17), Service::default());
        let nobody = F::packet(A, VIP, 17, &udp(4000, 81));
        let [syn, ..] = questions::<F>(WORLD);
        for tick in [1000, 1001, 5] {
            h.now.set(tick);
            assert_eq!(sent::<F>(&h, &nobody).0.kind, Kind::Reject);
            for n in 1..ANSWERS_PER_TICK {
                assert_eq!(sent::<F>(&h, &syn).0.kind, Kind::Reject, "{n}");
            }
            for packet in [&syn, &nobody] {
                let (v, after) = sent::<F>(&h, packet);
                assert_eq!((v.kind, &after), (Kind::Drop, packet));
            }
            let other = F::packet(B, WORLD, 6, &tcp(4000, 80, SYN));
            assert_eq!(from_pod::<F>(&h, LINK_B, &other).kind, Kind::Reject, "the other pod has its own");
        }
        let dropped = 3 * (ANSWERS_PER_TICK as usize + 3);
        assert_eq!(h.drops.borrow().len(), dropped, "all of them are told, answered or not");
    }
}
