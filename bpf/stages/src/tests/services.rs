//! Services, packet by packet and at the socket.

super::both_families!(
    a_packet_to_a_service_reaches_a_backend_and_the_answer_names_the_service,
    an_association_s_checksum_follows_its_ports,
    policy_judges_the_backend,
    a_service_that_leads_to_its_client_loops_back,
    a_service_without_backends_answers_with_a_refusal,
    affinity_keeps_the_backend_until_it_runs_out,
    a_new_connection_from_an_old_port_chooses_anew,
    sockets_are_sent_to_backends_and_told_of_the_service,
    a_lost_translation_is_no_leak,
);

mod inner {
    use super::super::*;

    /// Backends by their last bytes, at port 8080.
    fn service<F: Testable>(h: &Host, protocol: u8, backends: &[u8], affinity: u32)
    where
        Host: HasTables<F> + Maps<F>,
    {
        let t: &crate::host::Tables<F> = h.tables();
        let set = u32::from(protocol);
        let service = Service { set, count: u32::try_from(backends.len()).unwrap(), affinity, affinity_seconds: 0 };
        t.services.borrow_mut().insert(F::service_key(F::address(VIP), 80u16.to_be(), protocol), service);
        for (index, last) in backends.iter().enumerate() {
            let key = BackendKey { set, index: u32::try_from(index).unwrap() };
            let choice = Choice { address: F::address(*last), port: 8080u16.to_be(), expires: 0 };
            t.backends.borrow_mut().insert(key, F::backend(choice));
        }
    }

    /// Addresses and ports of a TCP or UDP packet.
    fn names<F: Testable>(p: &[u8]) -> (u8, u16, u8, u16)
    where
        Host: HasTables<F> + Maps<F>,
    {
        let (s, d) = if F::NUMBER == 4 { (29, 33) } else { (37, 53) };
        let port = |at: usize| u16::from_be_bytes([p[F::HEADER + at], p[F::HEADER + at + 1]]);
        (p[s], port(0), p[d], port(2))
    }

    fn sealed<F: Testable>(source: u8, destination: u8, protocol: u8, payload: &[u8]) -> Vec<u8>
    where
        Host: HasTables<F> + Maps<F>,
    {
        let mut p = F::packet(source, destination, protocol, payload);
        seal::<F>(&mut p, protocol, if protocol == 6 { 16 } else { 6 });
        p
    }

    pub(super) fn a_packet_to_a_service_reaches_a_backend_and_the_answer_names_the_service<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        for (protocol, there, back) in
            [(6, tcp(4000, 80, SYN), tcp(8080, 4000, SYN | ACK)), (17, udp(4000, 80), udp(8080, 4000))]
        {
            service::<F>(&h, protocol, &[B], 0);
            for _ in 0..2 {
                let (v, p) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_A, &sealed::<F>(A, VIP, protocol, &there));
                assert_eq!(v, Verdict::local(LINK_B));
                assert_eq!(names::<F>(&p), (A, 4000, B, 8080));
                assert!(sums_are_right::<F>(&p, protocol));
                let (v, p) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_B, &sealed::<F>(B, A, protocol, &back));
                assert_eq!(v, Verdict::local(LINK_A));
                assert_eq!(names::<F>(&p), (VIP, 80, A, 4000));
                assert!(sums_are_right::<F>(&p, protocol));
            }
        }
    }

    /// CRC32c, bit by bit.
    fn crc32c(data: &[u8]) -> u32 {
        !data.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 0 { c >> 1 } else { c >> 1 ^ 0x82f6_3b78 })
        })
    }

    fn sctp(source: u16, destination: u16, length: usize) -> Vec<u8> {
        let mut t = Vec::new();
        t.extend(source.to_be_bytes());
        t.extend(destination.to_be_bytes());
        t.extend([0, 0, 0, 7, 0, 0, 0, 0]);
        t.extend((0..length).map(|n| (n % 253) as u8));
        let sum = crc32c(&t).to_le_bytes();
        t[8..12].copy_from_slice(&sum);
        t
    }

    fn crc_is_right(packet: &[u8]) -> bool {
        let mut p = packet.to_vec();
        p[8..12].fill(0);
        crc32c(&p).to_le_bytes() == packet[8..12]
    }

    pub(super) fn an_association_s_checksum_follows_its_ports<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        service::<F>(&h, 132, &[B], 0);
        for length in [4, 20, 61, 1400, 9000] {
            let there = F::packet(A, VIP, 132, &sctp(4000, 80, length));
            let (v, p) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_A, &there);
            assert_eq!(v, Verdict::local(LINK_B));
            assert_eq!(names::<F>(&p), (A, 4000, B, 8080));
            assert!(crc_is_right(&p[F::HEADER..]), "there, {length}");
            // A frame may be longer than its packet.
            let mut back = F::packet(B, A, 132, &sctp(8080, 4000, length));
            back.extend([0xaa; 6]);
            let (v, p) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_B, &back);
            assert_eq!(v, Verdict::local(LINK_A));
            assert_eq!(names::<F>(&p), (VIP, 80, A, 4000));
            assert!(crc_is_right(&p[F::HEADER..p.len() - 6]), "back, {length}");
        }
        // A checksum that the kernel has yet to fill in stays so.
        let mut open = F::packet(A, VIP, 132, &sctp(4000, 80, 20));
        open[F::HEADER + 8..F::HEADER + 12].fill(0);
        let (_, p) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_A, &open);
        assert_eq!((names::<F>(&p).3, &p[F::HEADER + 8..F::HEADER + 12]), (8080, &[0u8; 4][..]));
    }

    pub(super) fn policy_judges_the_backend<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        service::<F>(&h, 6, &[B], 0);
        default(&h, 1, Direction::Egress, false);
        rule(&h, 1, Direction::Egress, 2, 6, 80, true);
        let p = F::packet(A, VIP, 6, &tcp(4000, 80, SYN));
        let (v, after) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_A, &p);
        assert!(v.is_drop() && after == p, "a dropped packet is not rewritten");
        rule(&h, 1, Direction::Egress, 102, 6, 8080, true);
        assert_eq!(from_pod::<F>(&h, LINK_A, &p), Verdict::local(LINK_B));
        let drop = h.drops.borrow()[0];
        assert_eq!((drop.destination_identity, u16::from_be(drop.destination_port)), (102, 8080));
    }

    pub(super) fn a_service_that_leads_to_its_client_loops_back<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        service::<F>(&h, 17, &[A], 0);
        default(&h, 1, Direction::Egress, false);
        default(&h, 1, Direction::Ingress, false);
        let there = sealed::<F>(A, VIP, 17, &udp(4000, 80));
        let (v, p) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_A, &there);
        assert_eq!(v, Verdict::local(LINK_A));
        let loopback = if F::NUMBER == 4 { 1 } else { 0x42 };
        assert_eq!(names::<F>(&p), (loopback, 4000, A, 8080));
        assert!(sums_are_right::<F>(&p, 17));
        // The answer, as the pod sends it: addresses and ports of what it got, the other way round.
        let mut answer = p.clone();
        let (s, size) = if F::NUMBER == 4 { (26, 4) } else { (22, 16) };
        let (source, destination) = (p[s..s + size].to_vec(), p[s + size..s + 2 * size].to_vec());
        answer[s..s + size].copy_from_slice(&destination);
        answer[s + size..s + 2 * size].copy_from_slice(&source);
        answer[F::HEADER..F::HEADER + 2].copy_from_slice(&8080u16.to_be_bytes());
        answer[F::HEADER + 2..F::HEADER + 4].copy_from_slice(&4000u16.to_be_bytes());
        for _ in 0..2 {
            let (v, p) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_A, &answer);
            assert_eq!(v, Verdict::local(LINK_A));
            assert_eq!(names::<F>(&p), (VIP, 80, A, 4000));
            assert!(sums_are_right::<F>(&p, 17));
            h.epoch.set(h.epoch.get() + 1);
        }
        // The other pod cannot join in.
        assert!(from_pod::<F>(&h, LINK_B, &answer).is_drop());
    }

    pub(super) fn a_service_without_backends_answers_with_a_refusal<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        service::<F>(&h, 6, &[], 0);
        service::<F>(&h, 17, &[], 0);
        let (v, p) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_A, &F::packet(A, VIP, 6, &tcp(4000, 80, SYN)));
        assert_eq!((v.kind, v.reason()), (Kind::Reject, Some(DropReason::NoBackend)));
        assert_eq!(names::<F>(&p), (VIP, 80, A, 4000));
        assert_eq!(p[F::HEADER + 13], RST | ACK);
        assert_eq!(p[F::HEADER + 8..F::HEADER + 12], [0, 0, 0, 2], "it acknowledges the SYN");
        assert!(sums_are_right::<F>(&p, 6));
        let sent = F::packet(A, VIP, 17, &udp(4000, 80));
        let (v, p) = meet::<F, { hook::FROM_CONTAINER }>(&h, LINK_A, &sent);
        assert_eq!(v.kind, Kind::Reject);
        assert_eq!(p[F::HEADER..F::HEADER + 2], if F::NUMBER == 4 { [3, 3] } else { [1, 4] });
        assert_eq!(p[F::HEADER + 8..], sent[14..14 + F::HEADER - 14 + 8]);
        assert!(sums_are_right::<F>(&p, F::ICMP));
        // A stranger's packet, and a reset, are not answered.
        assert_eq!(from_pod::<F>(&h, LINK_B, &F::packet(A, VIP, 6, &tcp(4000, 80, SYN))).kind, Kind::Drop);
        assert_eq!(from_pod::<F>(&h, LINK_A, &F::packet(A, VIP, 6, &tcp(4000, 80, RST))).kind, Kind::Drop);
        assert_eq!(h.drops.borrow().len(), 4);
    }

    pub(super) fn affinity_keeps_the_backend_until_it_runs_out<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        service::<F>(&h, 6, &[B, REMOTE], 50);
        for (random, now, local) in [(0, 1000, true), (1, 1040, true), (1, 1095, false), (0, 1100, false)] {
            h.random.set(random);
            h.now.set(now);
            let port = u16::try_from(now).unwrap();
            let v = from_pod::<F>(&h, LINK_A, &F::packet(A, VIP, 6, &tcp(port, 80, SYN)));
            assert_eq!(v.kind == Kind::Local, local, "at {now}");
        }
    }

    pub(super) fn a_new_connection_from_an_old_port_chooses_anew<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        service::<F>(&h, 6, &[B, REMOTE], 0);
        let syn = F::packet(A, VIP, 6, &tcp(4000, 80, SYN));
        assert_eq!(from_pod::<F>(&h, LINK_A, &syn).kind, Kind::Local);
        h.random.set(1);
        assert_eq!(from_pod::<F>(&h, LINK_A, &syn).kind, Kind::Local, "a SYN that is sent again");
        assert_eq!(from_pod::<F>(&h, LINK_A, &F::packet(A, VIP, 6, &tcp(4000, 80, ACK))).kind, Kind::Local);
        assert_eq!(from_pod::<F>(&h, LINK_A, &syn).kind, Kind::Tunnel, "a new connection");
    }

    pub(super) fn sockets_are_sent_to_backends_and_told_of_the_service<F: Testable>()
    where
        Host: HasTables<F> + Maps<F> + crate::socket::Sockets<F>,
    {
        let h = world(false);
        service::<F>(&h, 6, &[B, REMOTE], 0);
        service::<F>(&h, 17, &[], 0);
        let caller = |protocol| Caller { cookie: 5, namespace: 6, protocol };
        let (vip, port) = (F::address(VIP), 80u16.to_be());
        assert_eq!(connect::<F, _>(&h, caller(6), F::address(B), port), Outcome::Unchanged);
        assert_eq!(connect::<F, _>(&h, caller(17), vip, port), Outcome::Refused);
        let backend = F::address(REMOTE);
        h.random.set(1);
        assert_eq!(connect::<F, _>(&h, caller(6), vip, port), Outcome::Backend(backend, 8080u16.to_be()));
        assert_eq!(reverse::<F, _>(&h, 5, 6, backend, 8080u16.to_be()), Some((vip, port)));
        assert_eq!(reverse::<F, _>(&h, 7, 6, backend, 8080u16.to_be()), None);
        // Sends of one socket stay with one backend, whatever the die says.
        service::<F>(&h, 17, &[B, REMOTE], 0);
        let first = connect::<F, _>(&h, caller(17), vip, port);
        for random in 0..8 {
            h.random.set(random);
            assert_eq!(connect::<F, _>(&h, caller(17), vip, port), first);
        }
    }

    pub(super) fn a_lost_translation_is_no_leak<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        service::<F>(&h, 17, &[B], 0);
        let _ = from_pod::<F>(&h, LINK_A, &F::packet(A, VIP, 17, &udp(4000, 80)));
        assert_ne!(entry::<F>(&h).flags & FLAG_SERVICE, 0);
        let t: &crate::host::Tables<F> = h.tables();
        t.reverse.borrow_mut().clear();
        let v = from_pod::<F>(&h, LINK_B, &F::packet(B, A, 17, &udp(8080, 4000)));
        assert_eq!(v.reason(), Some(DropReason::NoNatMapping));
    }
}
