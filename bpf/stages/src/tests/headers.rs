//! Headers: options, extension headers, fragments, what is malformed.

super::both_families!(
    cut_off_headers_are_invalid,
    impossible_flags_are_invalid,
    a_later_fragment_takes_the_ports_of_its_first_one,
    a_fragment_without_its_first_one_is_dropped,
    a_full_waiting_room_is_a_reason_and_a_silent_one_is_empty,
    other_protocols_pass_by_protocol,
);

/// Turns the packet's payload into a fragment.
fn fragment<F: super::Testable>(packet: &[u8], first: bool, id: u8) -> std::vec::Vec<u8>
where
    super::Host: super::HasTables<F> + super::Maps<F>,
{
    let mut p = packet.to_vec();
    if F::NUMBER == 4 {
        p[19] = id;
        let place: u16 = if first { 0x2000 } else { 1 };
        p[20..22].copy_from_slice(&place.to_be_bytes());
        return p;
    }
    let place: u16 = if first { 1 } else { 8 };
    let mut header = std::vec![p[20], 0];
    header.extend(place.to_be_bytes());
    header.extend([0, 0, 0, id]);
    p[20] = 44;
    let length = u16::from_be_bytes([p[18], p[19]]) + 8;
    p[18..20].copy_from_slice(&length.to_be_bytes());
    p.splice(54..54, header);
    p
}

mod inner {
    use super::{super::*, fragment};

    pub(super) fn cut_off_headers_are_invalid<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        for protocol in [6, 17, F::ICMP] {
            for length in 0..8 {
                let p = F::packet(A, B, protocol, &vec![0; length]);
                let v = from_pod::<F>(&h, LINK_A, &p);
                let enough = protocol == 17 && length >= 4;
                assert_eq!(v.reason() == Some(DropReason::TruncatedHeader), !enough, "{protocol} {length}");
            }
        }
        let mut long = F::packet(A, B, 17, &udp(1, 2));
        let place = if F::NUMBER == 4 { 17 } else { 19 };
        long[place] += 1;
        assert_eq!(long.len(), F::HEADER + 12);
        assert!(slow_only::<F>(&h, &long).is_drop());
    }

    /// Past the short way, which leaves lengths to the receiver.
    fn slow_only<F: Testable>(h: &Host, p: &[u8]) -> Verdict
    where
        Host: HasTables<F> + Maps<F>,
    {
        let buffer = Buffer::new(p, LINK_A);
        slow::<F, _, _, { hook::FROM_CONTAINER }>(h, &buffer, &mut Work::new())
    }

    pub(super) fn impossible_flags_are_invalid<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        for flags in [SYN | FIN, SYN | RST] {
            let v = from_pod::<F>(&h, LINK_A, &F::packet(A, B, 6, &tcp(1, 2, flags)));
            assert_eq!(v.reason(), Some(DropReason::InvalidPacket));
        }
        let mut p = F::packet(A, B, 6, &tcp(1, 2, SYN));
        p[F::HEADER + 12] = 0x40;
        assert_eq!(from_pod::<F>(&h, LINK_A, &p).reason(), Some(DropReason::InvalidPacket));
    }

    pub(super) fn a_later_fragment_takes_the_ports_of_its_first_one<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        rule(&h, 2, Direction::Ingress, 101, 17, 54, false);
        for (id, port, passes) in [(1, 53, true), (2, 54, false)] {
            let first = fragment::<F>(&F::packet(A, B, 17, &udp(5000, port)), true, id);
            // Bytes that would read as the denied port.
            let later = fragment::<F>(&F::packet(A, B, 17, &udp(5000, 54)), false, id);
            assert_eq!(!from_pod::<F>(&h, LINK_A, &first).is_drop(), passes);
            assert_eq!(!from_pod::<F>(&h, LINK_A, &later).is_drop(), passes);
        }
        assert_eq!(entry::<F>(&h).packets.iter().sum::<u32>(), 2);
    }

    pub(super) fn a_full_waiting_room_is_a_reason_and_a_silent_one_is_empty<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        h.room.set(77);
        let later = fragment::<F>(&F::packet(A, B, 17, &[0x55; 1000]), false, 9);
        let fit = axoneme_abi::constants::ROOM_BYTES as usize / later.len();
        for _ in 0..fit {
            assert_eq!(from_pod::<F>(&h, LINK_A, &later), Verdict::wait(77));
        }
        assert_eq!(from_pod::<F>(&h, LINK_A, &later).reason(), Some(DropReason::WaitingRoomFull));
        // One comes out and goes in again: there is no place for another.
        let mut out = Buffer::new(&later, 78);
        out.mark = axoneme_abi::constants::MARK_WAITING.into();
        let v = slow::<F, _, _, { hook::FROM_WAITING }>(&h, &out, &mut Work::new());
        assert_eq!(v, Verdict::wait(77));
        assert_eq!(from_pod::<F>(&h, LINK_A, &later).reason(), Some(DropReason::WaitingRoomFull));
        // Nothing has come out for long: nobody can be in there.
        h.now.set(h.now.get() + axoneme_abi::constants::ROOM_SILENT);
        assert_eq!(from_pod::<F>(&h, LINK_A, &later), Verdict::wait(77));
        assert_eq!(h.waiting.get().bytes, later.len() as i64);
    }

    pub(super) fn a_fragment_without_its_first_one_is_dropped<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        let p = fragment::<F>(&F::packet(A, B, 17, &udp(5000, 53)), false, 1);
        assert_eq!(from_pod::<F>(&h, LINK_A, &p).reason(), Some(DropReason::FragmentNotFound));
    }

    pub(super) fn other_protocols_pass_by_protocol<F: Testable>()
    where
        Host: HasTables<F> + Maps<F>,
    {
        let h = world(false);
        default(&h, 2, Direction::Ingress, false);
        let p = F::packet(A, B, 47, &[0; 8]);
        assert!(from_pod::<F>(&h, LINK_A, &p).is_drop());
        rule(&h, 2, Direction::Ingress, 101, 47, 0, true);
        assert_eq!(from_pod::<F>(&h, LINK_A, &p), Verdict::local(LINK_B));
    }
}

mod v4_only {
    use super::super::*;

    #[test]
    fn options_move_the_transport_header() {
        let h = world(false);
        rule(&h, 2, Direction::Ingress, 101, 17, 53, false);
        let mut p = V4::packet(A, B, 17, &udp(5000, 53));
        p[14] = 0x47;
        p[17] += 8;
        p.splice(34..34, [1u8; 8]);
        assert!(from_pod::<V4>(&h, LINK_A, &p).is_drop());
        p[14] = 0x44;
        assert_eq!(from_pod::<V4>(&h, LINK_A, &p).reason(), Some(DropReason::InvalidPacket));
    }
}

mod v6_only {
    use super::super::*;

    fn with(extensions: &[u8], first: u8) -> Vec<u8> {
        let mut p = V6::packet(A, B, first, extensions);
        let length = u16::from_be_bytes([p[18], p[19]]);
        p.extend(udp(5000, 53));
        p[18..20].copy_from_slice(&(length + 12).to_be_bytes());
        p
    }

    #[test]
    fn extension_headers_are_followed() {
        let h = world(false);
        rule(&h, 2, Direction::Ingress, 101, 17, 53, false);
        // Hop-by-hop, routing (24 bytes), destination options, authentication (16 bytes).
        let mut e = vec![43, 0, 1, 4, 0, 0, 0, 0];
        e.extend([60, 2]);
        e.extend([0; 22]);
        e.extend([51, 0, 1, 4, 0, 0, 0, 0]);
        e.extend([17, 2]);
        e.extend([0; 14]);
        let v = from_pod::<V6>(&h, LINK_A, &with(&e, 0));
        assert_eq!(v, Verdict::denied(DropReason::PolicyDeny, Direction::Ingress, 42));
    }

    #[test]
    fn too_many_or_too_long_extension_headers_are_refused() {
        let h = world(false);
        let many: Vec<u8> = (0..7).flat_map(|i| [if i == 6 { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]).collect();
        assert_eq!(from_pod::<V6>(&h, LINK_A, &with(&many, 60)).reason(), Some(DropReason::InvalidExtension));
        let mut long = vec![17, 100];
        long.extend([0; 806]);
        assert_eq!(from_pod::<V6>(&h, LINK_A, &with(&long, 60)).reason(), Some(DropReason::InvalidExtension));
        assert_eq!(
            from_pod::<V6>(&h, LINK_A, &V6::packet(A, B, 60, &[17])).reason(),
            Some(DropReason::InvalidExtension)
        );
    }

    #[test]
    fn neighbour_messages_speak_for_their_sender_only() {
        let h = world(false);
        let message = |kind: u8, source: u8, target: u8| {
            let mut m = vec![kind, 0, 0, 0, 0, 0, 0, 0, 0xfd];
            m.extend([0; 14]);
            m.push(target);
            V6::packet(source, B, 58, &m)
        };
        assert_eq!(from_pod::<V6>(&h, LINK_A, &message(135, A, B)), Verdict::PASS);
        assert_eq!(from_pod::<V6>(&h, LINK_A, &message(136, A, A)), Verdict::PASS);
        assert!(from_pod::<V6>(&h, LINK_A, &message(136, A, B)).is_drop());
        assert!(from_pod::<V6>(&h, LINK_A, &message(136, B, B)).is_drop());
        for kind in [133, 134, 137] {
            assert_eq!(from_pod::<V6>(&h, LINK_A, &message(kind, A, A)).reason(), Some(DropReason::ForbiddenIcmp6));
        }
        assert!(h.drops.borrow().len() <= 2, "router messages are counted, not reported");
    }
}
