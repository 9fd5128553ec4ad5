//! Why a packet was dropped.

macro_rules! reasons {
    ($( $(#[$doc:meta])* $name:ident = $number:literal, $text:literal; )*) => {
        /// Reason of a drop, numbered as `DropReason` of Cilium's `flow.proto` where the meaning is the same.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $( $(#[$doc])* $name = $number, )* }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The reason of this number, if there is one.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $( $number => Some(Self::$name), )* _ => None }
            }

            /// Name in `flow.proto` (own name where that has none).
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }
        }
    };
}

reasons! {
    /// A pod used a link-layer source address that is not its own.
    InvalidSourceMac = 130, "INVALID_SOURCE_MAC";
    /// A pod used an address that is not its own, or a packet from outside claims a pod's.
    InvalidSourceIp = 132, "INVALID_SOURCE_IP";
    /// No rule allows it and the endpoint is isolated in this direction.
    PolicyDenied = 133, "POLICY_DENIED";
    /// Headers contradict each other or end too early.
    InvalidPacket = 134, "INVALID_PACKET_DROPPED";
    /// The transport header is cut off.
    TruncatedHeader = 135, "CT_TRUNCATED_OR_INVALID_HEADER";
    /// Neither IPv4, IPv6 nor ARP, or a family that is switched off.
    UnsupportedL3 = 139, "UNSUPPORTED_L3_PROTOCOL";
    /// A packet could not be rewritten.
    WriteFailed = 141, "ERROR_WRITING_TO_PACKET";
    /// The tunnel header could not be read.
    NoTunnelKey = 147, "ERROR_RETRIEVING_TUNNEL_KEY";
    /// Packet for an address of this node's pods that no pod has.
    NoLocalEndpoint = 152, "NO_MATCHING_LOCAL_CONTAINER_FOUND";
    /// The connection could not be recorded.
    ConntrackInsert = 155, "CT_MAP_INSERTION_FAILED";
    /// More or longer IPv6 extension headers than are read.
    InvalidExtension = 156, "INVALID_IPV6_EXTENSION_HEADER";
    /// The Service has no backend.
    NoBackend = 158, "SERVICE_BACKEND_NOT_FOUND";
    /// The destination's node is not known.
    NoTunnelEndpoint = 160, "NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT";
    /// The endpoint's slot has no policy table: nothing passes until it has one.
    NoPolicy = 165, "NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION";
    /// A link-layer protocol (VLAN tag) that pods may not use.
    UnsupportedL2 = 166, "UNSUPPORTED_L2_PROTOCOL";
    /// Reply to a Service's client whose translation is gone.
    NoNatMapping = 167, "NO_MAPPING_FOR_NAT_MASQUERADE";
    /// A protocol that cannot be translated.
    NatUnsupported = 168, "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE";
    /// The tunnel header carries an identity that no peer may claim.
    InvalidIdentity = 171, "INVALID_IDENTITY";
    /// A fragment whose first fragment did not come, not even after it had waited.
    FragmentNotFound = 175, "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND";
    /// Router and neighbour messages that a pod may not send.
    ForbiddenIcmp6 = 176, "FORBIDDEN_ICMPV6_MESSAGE";
    /// A rule denies it.
    PolicyDeny = 181, "POLICY_DENY";
    /// The entry asks for authentication, which is not there yet.
    AuthRequired = 189, "AUTH_REQUIRED";
    /// A fragment that had to wait for its first one found the waiting room full: it lets out so many a second and holds
    /// so many bytes ([`crate::constants::ROOM_BYTES`]).
    WaitingRoomFull = 198, "DROP_RATE_LIMITED";
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn numbers_and_names_are_unique_and_reversible() {
        for (i, a) in DropReason::ALL.iter().enumerate() {
            assert_eq!(DropReason::from_number(*a as u8), Some(*a));
            for b in DropReason::ALL.iter().skip(i + 1) {
                assert!(*a as u8 != *b as u8 && a.name() != b.name());
            }
        }
        assert_eq!(DropReason::from_number(0), None);
    }
}
