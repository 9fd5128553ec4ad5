//! What a packet was, in a few words.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::Transport;

/// `TCP Flags: SYN, ACK`, `UDP`, `ICMPv4 EchoRequest`: what Hubble's `Summary` says. It becomes text where it is shown.
#[derive(Clone, Debug)]
pub enum Summary {
    /// Of a packet with no (readable) IP header.
    NoHeader,
    Of(Transport),
    /// As it was read from JSON.
    Text(Box<str>),
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("no IP header"),
            Self::Text(text) => f.write_str(text),
            Self::Of(Transport::Tcp { flags, .. }) => {
                f.write_str("TCP")?;
                flags.set_names().enumerate().try_for_each(|(n, name)| {
                    f.write_str(if n == 0 { " Flags: " } else { ", " })?;
                    f.write_str(name)
                })
            }
            Self::Of(Transport::Icmp { kind, code }) => icmp(f, "ICMPv4", icmpv4_name(*kind), *kind, *code),
            Self::Of(Transport::Icmpv6 { kind, code }) => icmp(f, "ICMPv6", icmpv6_name(*kind), *kind, *code),
            Self::Of(other) => write!(f, "{}", other.protocol()),
        }
    }
}

/// Equal is what reads alike.
impl PartialEq for Summary {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Summary {}

impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Summary {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self::Text(Box::deserialize(d)?))
    }
}

fn icmp(f: &mut fmt::Formatter<'_>, family: &str, name: Option<&str>, kind: u8, code: u8) -> fmt::Result {
    match (name, code) {
        (Some(name), 0) => write!(f, "{family} {name}"),
        (Some(name), code) => write!(f, "{family} {name} code {code}"),
        (None, code) => write!(f, "{family} type {kind} code {code}"),
    }
}

/// IANA "ICMP Type Numbers", the ones in use.
fn icmpv4_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0 => "EchoReply",
        3 => "DestinationUnreachable",
        4 => "SourceQuench",
        5 => "Redirect",
        8 => "EchoRequest",
        9 => "RouterAdvertisement",
        10 => "RouterSolicitation",
        11 => "TimeExceeded",
        12 => "ParameterProblem",
        13 => "TimestampRequest",
        14 => "TimestampReply",
        _ => return None,
    })
}

/// IANA "ICMPv6 type Numbers", the ones in use.
fn icmpv6_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        1 => "DestinationUnreachable",
        2 => "PacketTooBig",
        3 => "TimeExceeded",
        4 => "ParameterProblem",
        128 => "EchoRequest",
        129 => "EchoReply",
        130 => "MLDv1MulticastListenerQueryMessage",
        133 => "RouterSolicitation",
        134 => "RouterAdvertisement",
        135 => "NeighborSolicitation",
        136 => "NeighborAdvertisement",
        137 => "Redirect",
        143 => "MLDv2MulticastListenerReportMessageV2",
        _ => return None,
    })
}
