//! Why a packet was dropped, by Hubble's numbers and names.
//!
//! Source: `enum DropReason` of Cilium's `api/v1/flow/flow.proto` (1.20 development tree). Numbers below 130 are not
//! drops there and are never used here.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A drop reason by Hubble's number; zero is "unknown" and stands for "not a drop".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DropReason(pub u8);

/// Number, Hubble's name, what it means for a person.
type Entry = (u8, &'static str, &'static str);

impl DropReason {
    pub const UNKNOWN: Self = Self(0);
    pub const INVALID_SOURCE_IP: Self = Self(132);
    pub const POLICY_DENIED: Self = Self(133);
    pub const CT_MAP_INSERTION_FAILED: Self = Self(155);
    pub const SERVICE_BACKEND_NOT_FOUND: Self = Self(158);
    pub const POLICY_DENY: Self = Self(181);

    /// Hubble's name: `POLICY_DENIED`. A number that the list does not have is `DROP_REASON_UNKNOWN`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// A few words for a person: `Policy denied`.
    #[must_use]
    pub fn describe(self) -> &'static str {
        self.entry().2
    }

    /// The reason of that name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|e| e.1.eq_ignore_ascii_case(name)).map(|e| Self(e.0))
    }

    /// All names, for messages that list the choices.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|e| e.1)
    }

    /// Whether policy decided the drop (no rule allows it, or a rule denies it).
    #[must_use]
    pub fn is_policy(self) -> bool {
        self == Self::POLICY_DENIED || self == Self::POLICY_DENY
    }

    fn entry(self) -> Entry {
        TABLE.iter().find(|e| e.0 == self.0).copied().unwrap_or((0, "DROP_REASON_UNKNOWN", "Unknown reason"))
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for DropReason {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DropReason {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Self::from_name(&name).ok_or_else(|| D::Error::custom(format!("unknown drop reason {name:?}")))
    }
}

const TABLE: &[Entry] = &[
    (0, "DROP_REASON_UNKNOWN", "Unknown reason"),
    (130, "INVALID_SOURCE_MAC", "Source MAC is not the endpoint's"),
    (131, "INVALID_DESTINATION_MAC", "Destination MAC is not the endpoint's"),
    (132, "INVALID_SOURCE_IP", "Source address is not the endpoint's"),
    (133, "POLICY_DENIED", "Policy denied"),
    (134, "INVALID_PACKET_DROPPED", "Invalid packet"),
    (135, "CT_TRUNCATED_OR_INVALID_HEADER", "Conntrack: truncated or invalid header"),
    (136, "CT_MISSING_TCP_ACK_FLAG", "Fragmentation needed"),
    (137, "CT_UNKNOWN_L4_PROTOCOL", "Conntrack: unknown L4 protocol"),
    (138, "CT_CANNOT_CREATE_ENTRY_FROM_PACKET", "Conntrack: packet opens no connection"),
    (139, "UNSUPPORTED_L3_PROTOCOL", "Unsupported L3 protocol"),
    (140, "MISSED_TAIL_CALL", "Program of the next stage is missing"),
    (141, "ERROR_WRITING_TO_PACKET", "Packet could not be written"),
    (142, "UNKNOWN_L4_PROTOCOL", "Unknown L4 protocol"),
    (143, "UNKNOWN_ICMPV4_CODE", "Unknown ICMPv4 code"),
    (144, "UNKNOWN_ICMPV4_TYPE", "Unknown ICMPv4 type"),
    (145, "UNKNOWN_ICMPV6_CODE", "Unknown ICMPv6 code"),
    (146, "UNKNOWN_ICMPV6_TYPE", "Unknown ICMPv6 type"),
    (147, "ERROR_RETRIEVING_TUNNEL_KEY", "Tunnel key could not be read"),
    (148, "ERROR_RETRIEVING_TUNNEL_OPTIONS", "Tunnel options could not be read"),
    (149, "INVALID_GENEVE_OPTION", "Invalid Geneve option"),
    (150, "UNKNOWN_L3_TARGET_ADDRESS", "Unknown L3 target address"),
    (151, "STALE_OR_UNROUTABLE_IP", "Stale or unroutable address"),
    (152, "NO_MATCHING_LOCAL_CONTAINER_FOUND", "No local endpoint has the address"),
    (153, "ERROR_WHILE_CORRECTING_L3_CHECKSUM", "L3 checksum could not be corrected"),
    (154, "ERROR_WHILE_CORRECTING_L4_CHECKSUM", "L4 checksum could not be corrected"),
    (155, "CT_MAP_INSERTION_FAILED", "Conntrack map is full"),
    (156, "INVALID_IPV6_EXTENSION_HEADER", "Invalid IPv6 extension header"),
    (157, "IP_FRAGMENTATION_NOT_SUPPORTED", "Fragments are not supported here"),
    (158, "SERVICE_BACKEND_NOT_FOUND", "Service has no backend"),
    (160, "NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT", "No tunnel endpoint for the address"),
    (161, "FAILED_TO_INSERT_INTO_PROXYMAP", "NAT 46/64 is not enabled"),
    (162, "REACHED_EDT_RATE_LIMITING_DROP_HORIZON", "Bandwidth limit reached"),
    (163, "UNKNOWN_CONNECTION_TRACKING_STATE", "Unknown conntrack state"),
    (164, "LOCAL_HOST_IS_UNREACHABLE", "Local host is unreachable"),
    (165, "NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION", "Endpoint has no policy yet"),
    (166, "UNSUPPORTED_L2_PROTOCOL", "Unsupported L2 protocol"),
    (167, "NO_MAPPING_FOR_NAT_MASQUERADE", "No free port for masquerading"),
    (168, "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE", "Protocol cannot be masqueraded"),
    (169, "FIB_LOOKUP_FAILED", "No route"),
    (170, "ENCAPSULATION_TRAFFIC_IS_PROHIBITED", "Endpoint may not send encapsulated traffic"),
    (171, "INVALID_IDENTITY", "Invalid identity"),
    (172, "UNKNOWN_SENDER", "Unknown sender"),
    (173, "NAT_NOT_NEEDED", "NAT not needed"),
    (174, "IS_A_CLUSTERIP", "Address is a ClusterIP"),
    (175, "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND", "First fragment was not seen"),
    (176, "FORBIDDEN_ICMPV6_MESSAGE", "Forbidden ICMPv6 message"),
    (177, "DENIED_BY_LB_SRC_RANGE_CHECK", "Not in the service's source ranges"),
    (178, "SOCKET_LOOKUP_FAILED", "Socket lookup failed"),
    (179, "SOCKET_ASSIGN_FAILED", "Socket could not be assigned"),
    (180, "PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL", "Protocol cannot be sent to a proxy"),
    (181, "POLICY_DENY", "Policy denied by a deny rule"),
    (182, "VLAN_FILTERED", "VLAN is filtered"),
    (183, "INVALID_VNI", "Wrong VNI"),
    (184, "INVALID_TC_BUFFER", "Packet buffer could not be stored"),
    (185, "NO_SID", "No SID for the address"),
    (186, "MISSING_SRV6_STATE", "SRv6 state is missing"),
    (187, "NAT46", "Translation from IPv4 to IPv6 failed"),
    (188, "NAT64", "Translation from IPv6 to IPv4 failed"),
    (189, "AUTH_REQUIRED", "Authentication required"),
    (190, "CT_NO_MAP_FOUND", "No conntrack map"),
    (191, "SNAT_NO_MAP_FOUND", "No NAT map"),
    (192, "INVALID_CLUSTER_ID", "Invalid cluster id"),
    (193, "UNSUPPORTED_PROTOCOL_FOR_DSR_ENCAP", "Protocol cannot be encapsulated for DSR"),
    (194, "NO_EGRESS_GATEWAY", "No egress gateway"),
    (195, "UNENCRYPTED_TRAFFIC", "Traffic is not encrypted"),
    (196, "TTL_EXCEEDED", "TTL exceeded"),
    (197, "NO_NODE_ID", "No node id"),
    (198, "DROP_RATE_LIMITED", "Rate limited"),
    (199, "IGMP_HANDLED", "IGMP handled"),
    (200, "IGMP_SUBSCRIBED", "IGMP subscribed"),
    (201, "MULTICAST_HANDLED", "Multicast handled"),
    (202, "DROP_HOST_NOT_READY", "Host datapath is not ready"),
    (203, "DROP_EP_NOT_READY", "Endpoint datapath is not ready"),
    (204, "DROP_NO_EGRESS_IP", "Egress gateway has no address"),
    (205, "DROP_PUNT_PROXY", "Sent to a user space proxy"),
    (207, "DROP_FRAG_NOT_FOUND_WORLD", "First fragment from outside was not seen"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_hubbles() {
        assert_eq!(DropReason::POLICY_DENIED.name(), "POLICY_DENIED");
        assert_eq!(DropReason::from_name("policy_deny"), Some(DropReason(181)));
        assert_eq!(DropReason::from_name("DROP_EP_NOT_READY"), Some(DropReason(203)));
        assert_eq!(DropReason::from_name("NO_SUCH"), None);
        assert_eq!(DropReason(159).name(), "DROP_REASON_UNKNOWN");
    }

    #[test]
    fn the_table_is_sorted_and_has_no_name_twice() {
        assert!(TABLE.windows(2).all(|w| w[0].0 < w[1].0));
        let mut names: Vec<_> = DropReason::names().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
