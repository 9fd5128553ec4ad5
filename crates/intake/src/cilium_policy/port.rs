//! What: `toPorts` and `icmps`.

use axoneme_model::{Action, PortMatch, Ports, Protocol};
use serde_json::Value;

use crate::field::Field;

/// Upper bound of entries in `ports` and `fields`, as upstream has it.
const MAX_PORTS: usize = 40;

/// The ports of an entry; none if it names none, which means all.
pub(super) fn ports(field: &Field<'_>, action: Action) -> Option<Ports> {
    let to_ports = field.get("toPorts").filter(|list| list.len() > 0 || !list.raw().is_array());
    let icmps = field.get("icmps").filter(|list| list.len() > 0 || !list.raw().is_array());
    if to_ports.is_some() && icmps.is_some() {
        field.invalid("combines toPorts and icmps; write an entry for each");
    }
    let mut out = Vec::new();
    if let Some(list) = &to_ports {
        for item in list.items() {
            port_rule(&item, action, &mut out);
        }
    }
    if let Some(list) = &icmps {
        for item in list.items() {
            item.only(&["fields"]);
            for message in at_least_one(&item, "fields").iter().flat_map(Field::items) {
                out.extend(icmp(&message));
            }
        }
    }
    (to_ports.is_some() || icmps.is_some()).then_some(Ports::OneOf(out))
}

/// The list under the name, if it has 1 to [`MAX_PORTS`] items.
fn at_least_one<'s>(field: &'s Field<'_>, name: &'s str) -> Option<Field<'s>> {
    let list = field.get(name);
    match list {
        _ if !field.raw().is_object() => {}
        // upstream matches no port then; nobody can mean that
        None => field.missing(name, "needs at least one item".to_owned()),
        Some(list) if list.raw().is_array() && !(1..=MAX_PORTS).contains(&list.len()) => {
            list.invalid(format!("must have 1 to {MAX_PORTS} items"));
        }
        Some(_) => {}
    }
    list
}

fn port_rule(field: &Field<'_>, action: Action, out: &mut Vec<PortMatch>) {
    if action == Action::Deny {
        field.only(&["ports"]);
    } else {
        field.only(&["ports", "terminatingTLS", "originatingTLS", "serverNames", "listener", "rules"]);
        above_l4(field);
    }
    for port in at_least_one(field, "ports").iter().flat_map(Field::items) {
        port_protocol(&port, out);
    }
}

/// Refuses what is above the transport: without it the rule would allow more than it says.
fn above_l4(field: &Field<'_>) {
    for (name, what) in [
        ("terminatingTLS", "TLS interception is"),
        ("originatingTLS", "TLS interception is"),
        ("serverNames", "TLS server names are"),
        ("listener", "Envoy listeners are"),
    ] {
        if let Some(found) = field.get(name) {
            found.unsupported(format!("{what} not enforced yet"));
        }
    }
    let Some(rules) = field.get("rules") else { return };
    rules.only(&["http", "dns", "kafka", "l7proto", "l7"]);
    for (name, what) in [
        ("http", "HTTP rules are not enforced yet"),
        ("dns", "DNS rules are not enforced yet"),
        ("kafka", "Kafka rules are not enforced; Cilium removed them in 1.20"),
        ("l7proto", "rules of other L7 protocols are not enforced; Cilium removed them in 1.20"),
        ("l7", "rules of other L7 protocols are not enforced; Cilium removed them in 1.20"),
    ] {
        if let Some(found) = rules.get(name) {
            found.unsupported(what);
        }
    }
}

/// What `protocol` stands for.
#[derive(Clone, Copy, Debug)]
enum Transport {
    /// TCP, UDP and SCTP.
    Any,
    One(Protocol),
}

const PROTOCOLS: [(&str, Transport); 11] = [
    ("TCP", Transport::One(Protocol::TCP)),
    ("UDP", Transport::One(Protocol::UDP)),
    ("SCTP", Transport::One(Protocol::SCTP)),
    ("ANY", Transport::Any),
    ("VRRP", Transport::One(Protocol::VRRP)),
    ("IGMP", Transport::One(Protocol::IGMP)),
    ("GRE", Transport::One(Protocol(47))),
    ("IPIP", Transport::One(Protocol(4))),
    ("IPV6", Transport::One(Protocol(41))),
    ("ESP", Transport::One(Protocol(50))),
    ("AH", Transport::One(Protocol(51))),
];

/// `port` as it is written.
enum PortText {
    All,
    Number(u16),
    Name(String),
}

fn port_protocol(field: &Field<'_>, out: &mut Vec<PortMatch>) {
    field.only(&["port", "endPort", "protocol"]);
    let transport = match field.get("protocol") {
        None => Some(Transport::Any),
        Some(protocol) => match protocol.raw().as_str() {
            Some("") => Some(Transport::Any),
            Some("ICMP" | "ICMPv6" | "ICMPV6") => {
                protocol.invalid("has no ports; name ICMP types with icmps");
                None
            }
            _ => protocol.choice(&PROTOCOLS),
        },
    };
    let port = match field.get("port") {
        None => Some(PortText::All),
        Some(port) => port_text(&port),
    };
    let end = field.get("endPort").and_then(|e| e.int(0..=u16::MAX)).filter(|e| *e != 0);
    let (Some(transport), Some(port)) = (transport, port) else { return };
    if let Transport::One(protocol) = transport
        && !protocol.has_ports()
    {
        if matches!(port, PortText::All) && end.is_none() {
            out.push(PortMatch::Protocol(protocol));
        } else {
            field.invalid("the protocol has no ports; leave port and endPort out");
        }
        return;
    }
    let protocols: &[Protocol] = match &transport {
        Transport::Any => &[Protocol::TCP, Protocol::UDP, Protocol::SCTP],
        Transport::One(protocol) => std::slice::from_ref(protocol),
    };
    match (port, end) {
        (PortText::All, None) => out.extend(protocols.iter().map(|p| PortMatch::Protocol(*p))),
        (PortText::Number(first), end) => {
            let last = end.unwrap_or(first);
            if last < first {
                field.invalid(format!("endPort {last} is less than port {first}"));
                return;
            }
            out.extend(protocols.iter().map(|p| PortMatch::Range { protocol: *p, first, last }));
        }
        (PortText::Name(name), None) => {
            let protocol = if let Transport::One(protocol) = transport { Some(protocol) } else { None };
            out.push(PortMatch::Named { protocol, name: name.into() });
        }
        (PortText::All | PortText::Name(_), Some(_)) => {
            field.invalid("endPort needs a port number from 1 to 65535 that the range begins with");
        }
    }
}

/// A number in quotes, or a service name of RFC 6335, which is the same in any case.
fn port_text(field: &Field<'_>) -> Option<PortText> {
    if let Value::Number(number) = field.raw() {
        field.invalid(format!("must be a string: write \"{number}\" in quotes"));
        return None;
    }
    let text = field.str()?;
    if text.is_empty() {
        return Some(PortText::All);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let parsed = text.parse::<u16>().ok().filter(|_| text == "0" || !text.starts_with('0'));
        if parsed.is_none() {
            field
                .invalid("must be a port from 0 (all) to 65535 without leading zeros, or the name of a container port");
        }
        return parsed.map(|n| if n == 0 { PortText::All } else { PortText::Number(n) });
    }
    if !is_service_name(text) {
        field.invalid(
            "is neither a port number nor a port name: at most 15 letters, digits and single hyphens, with at least one \
             letter",
        );
        return None;
    }
    Some(PortText::Name(text.to_lowercase()))
}

/// RFC 6335, section 5.1.
pub(crate) fn is_service_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// Numbers of the IANA registry "ICMP Type Numbers", names of Cilium's `pkg/policy/api/icmp.go`.
const ICMP_V4: [(&str, u8); 14] = [
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

/// Numbers of the IANA registry "ICMPv6 type Numbers".
const ICMP_V6: [(&str, u8); 27] = [
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

fn icmp(field: &Field<'_>) -> Option<PortMatch> {
    field.only(&["family", "type"]);
    let v6 = match field.get("family") {
        None => false,
        Some(family) if family.raw().as_str() == Some("") => false,
        Some(family) => family.choice(&[("IPv4", false), ("IPv6", true)])?,
    };
    let (protocol, names): (_, &[(&str, u8)]) =
        if v6 { (Protocol::ICMPV6, &ICMP_V6) } else { (Protocol::ICMP, &ICMP_V4) };
    let message = field.require("type")?;
    let icmp_type = match message.raw() {
        Value::String(text) if text.parse::<u8>().is_ok() => text.parse().ok(),
        Value::String(_) => message.choice(names),
        _ => message.int(0..=u8::MAX),
    };
    Some(PortMatch::IcmpType { protocol, icmp_type: icmp_type? })
}
