use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// ICMP messages; any of them matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IcmpRule {
    /// The messages; any of them matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 40))]
    pub fields: Option<Vec<IcmpField>>,
}

/// One type of ICMP message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IcmpField {
    /// ICMP of IPv4, or ICMPv6.
    #[serde(default)]
    pub family: IcmpFamily,

    /// The message type: a number from 0 to 255 or a name, such as 8 or EchoRequest.
    #[serde(rename = "type")]
    #[schemars(schema_with = "crate::schema::icmp_type")]
    pub type_: IntOrString,
}

/// The address family of an ICMP message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum IcmpFamily {
    /// ICMP.
    #[default]
    IPv4,
    /// ICMPv6.
    IPv6,
}

/// The names that message types have in a policy, with their numbers.
///
/// Source: Cilium's `icmps` reference; the numbers are those of the IANA ICMP and ICMPv6 registries.
pub const ICMP_TYPES: [(IcmpFamily, &str, u8); 41] = [
    (IcmpFamily::IPv4, "EchoReply", 0),
    (IcmpFamily::IPv4, "DestinationUnreachable", 3),
    (IcmpFamily::IPv4, "Redirect", 5),
    (IcmpFamily::IPv4, "Echo", 8),
    (IcmpFamily::IPv4, "EchoRequest", 8),
    (IcmpFamily::IPv4, "RouterAdvertisement", 9),
    (IcmpFamily::IPv4, "RouterSelection", 10),
    (IcmpFamily::IPv4, "TimeExceeded", 11),
    (IcmpFamily::IPv4, "ParameterProblem", 12),
    (IcmpFamily::IPv4, "Timestamp", 13),
    (IcmpFamily::IPv4, "TimestampReply", 14),
    (IcmpFamily::IPv4, "Photuris", 40),
    (IcmpFamily::IPv4, "ExtendedEchoRequest", 42),
    (IcmpFamily::IPv4, "ExtendedEchoReply", 43),
    (IcmpFamily::IPv6, "DestinationUnreachable", 1),
    (IcmpFamily::IPv6, "PacketTooBig", 2),
    (IcmpFamily::IPv6, "TimeExceeded", 3),
    (IcmpFamily::IPv6, "ParameterProblem", 4),
    (IcmpFamily::IPv6, "EchoRequest", 128),
    (IcmpFamily::IPv6, "EchoReply", 129),
    (IcmpFamily::IPv6, "MulticastListenerQuery", 130),
    (IcmpFamily::IPv6, "MulticastListenerReport", 131),
    (IcmpFamily::IPv6, "MulticastListenerDone", 132),
    (IcmpFamily::IPv6, "RouterSolicitation", 133),
    (IcmpFamily::IPv6, "RouterAdvertisement", 134),
    (IcmpFamily::IPv6, "NeighborSolicitation", 135),
    (IcmpFamily::IPv6, "NeighborAdvertisement", 136),
    (IcmpFamily::IPv6, "RedirectMessage", 137),
    (IcmpFamily::IPv6, "RouterRenumbering", 138),
    (IcmpFamily::IPv6, "ICMPNodeInformationQuery", 139),
    (IcmpFamily::IPv6, "ICMPNodeInformationResponse", 140),
    (IcmpFamily::IPv6, "InverseNeighborDiscoverySolicitation", 141),
    (IcmpFamily::IPv6, "InverseNeighborDiscoveryAdvertisement", 142),
    (IcmpFamily::IPv6, "HomeAgentAddressDiscoveryRequest", 144),
    (IcmpFamily::IPv6, "HomeAgentAddressDiscoveryReply", 145),
    (IcmpFamily::IPv6, "MobilePrefixSolicitation", 146),
    (IcmpFamily::IPv6, "MobilePrefixAdvertisement", 147),
    (IcmpFamily::IPv6, "DuplicateAddressRequestCodeSuffix", 157),
    (IcmpFamily::IPv6, "DuplicateAddressConfirmationCodeSuffix", 158),
    (IcmpFamily::IPv6, "ExtendedEchoRequest", 160),
    (IcmpFamily::IPv6, "ExtendedEchoReply", 161),
];
