//! A flow straight to the bytes of its `GetFlowsResponse`.
//!
//! [`crate::convert`] makes a message of Hubble's of a flow, with some thirty texts of its own that live until they are
//! written. A client that is sent every flow needs none of them. What is written here is the same: a message that is read
//! back from these bytes is the one that `convert` makes (property test).

use std::{io::Write as _, net::IpAddr};

use axoneme_flow::{
    Facet, Flow,
    flow::{Endpoint, Layer4, PolicyRef, Service},
};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::{convert, details, pb::flow as pb};

/// Numbers of `flow.Flow` and of what is in it, beside those that are written where they are used.
mod field {
    pub(super) const FLOW: u32 = 1;
    pub(super) const NODE_NAME: u32 = 1000;
    pub(super) const TIME: u32 = 1001;
    pub(super) const EMITTER: u32 = 41;
    pub(super) const EGRESS_ALLOWED_BY: u32 = 21_001;
    pub(super) const INGRESS_ALLOWED_BY: u32 = 21_002;
    pub(super) const EGRESS_DENIED_BY: u32 = 21_004;
    pub(super) const INGRESS_DENIED_BY: u32 = 21_005;
    pub(super) const POLICY_LOG: u32 = 21_006;
    pub(super) const SUMMARY: u32 = 100_000;
    pub(super) const EXTENSIONS: u32 = 150_000;
}

/// A `GetFlowsResponse` with that facet of the flow; `node` is the name that clients see ([`convert::node_name`]).
#[must_use]
pub fn response(flow: &Flow, facet: Facet, node: &str, details: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    message(&mut out, field::FLOW, |out| self::flow(out, flow, facet, node, details));
    text(&mut out, field::NODE_NAME, node);
    time(&mut out, field::TIME, flow.time);
    out
}

fn flow(out: &mut Vec<u8>, flow: &Flow, facet: Facet, node: &str, details: bool) {
    let judged = facet == Facet::Judgement;
    let is_reply = convert::is_reply(flow.is_reply, flow.verdict, facet);
    time(out, 1, flow.time);
    number(out, 2, i32::from(convert::verdict(flow.verdict, facet)));
    number(out, 3, flow.drop_reason);
    if let Some(ip) = &flow.ip {
        message(out, 5, |out| {
            address(out, 1, ip.source);
            address(out, 2, ip.destination);
            number(out, 3, i32::from(convert::ip_version(ip.version)));
        });
    }
    if let Some(l4) = flow.l4 {
        message(out, 6, |out| layer4(out, l4));
    }
    message(out, 8, |out| endpoint(out, &flow.source));
    message(out, 9, |out| endpoint(out, &flow.destination));
    number(out, 10, i32::from(pb::FlowType::L3L4));
    text(out, 11, node);
    number(out, 16, is_reply.unwrap_or_default());
    let event = convert::event_type(flow.event_type, flow.extensions.onward, facet);
    message(out, 19, |out| {
        signed(out, 1, event.r#type);
        signed(out, 2, event.sub_type);
    });
    for (tag, service) in [(20, &flow.source_service), (21, &flow.destination_service)] {
        if let Some(service) = service {
            message(out, tag, |out| self::service(out, service));
        }
    }
    number(out, 22, i32::from(convert::direction(flow, facet)));
    number(out, 23, if judged { convert::match_type(flow) } else { 0 });
    if !judged {
        number(out, 24, convert::observed(flow, facet).map_or(0, convert::point));
        number(out, 36, i32::from(convert::trace_reason(flow.extensions.event)));
    }
    number(out, 25, flow.drop_reason);
    if let Some(reply) = is_reply {
        message(out, 26, |out| number(out, 1, reply));
    }
    if let Some(interface) = convert::interface(flow, facet) {
        message(out, 28, |out| {
            number(out, 1, interface.index);
            text(out, 2, &interface.name);
        });
    }
    sender(out, flow, facet);
    bytes(out, 34, &convert::uuid(flow, facet).text());
    message(out, field::EMITTER, |out| {
        text(out, 1, "Axoneme");
        text(out, 2, env!("CARGO_PKG_VERSION"));
    });
    decided(out, flow);
    displayed(out, field::SUMMARY, &flow.summary);
    if details {
        extensions(out, flow);
    }
}

fn extensions(out: &mut Vec<u8>, flow: &Flow) {
    let any = details::any(&flow.extensions);
    message(out, field::EXTENSIONS, |out| {
        text(out, 1, &any.type_url);
        bytes(out, 2, &any.value);
    });
}

fn sender(out: &mut Vec<u8>, flow: &Flow, facet: Facet) {
    number(out, 32, flow.socket_cookie);
    number(out, 33, flow.cgroup_id);
    if let Some(tunnel) = convert::came_by(flow, facet) {
        message(out, 39, |out| {
            number(out, 1, i32::from(convert::tunnel(tunnel)));
            number(out, 4, tunnel.vni);
        });
    }
}

fn decided(out: &mut Vec<u8>, flow: &Flow) {
    for (tag, policies) in [
        (field::EGRESS_ALLOWED_BY, &flow.egress_allowed_by),
        (field::INGRESS_ALLOWED_BY, &flow.ingress_allowed_by),
        (field::EGRESS_DENIED_BY, &flow.egress_denied_by),
        (field::INGRESS_DENIED_BY, &flow.ingress_denied_by),
    ] {
        for policy in policies.iter() {
            message(out, tag, |out| self::policy(out, policy));
        }
    }
    flow.policy_log.iter().for_each(|log| repeated(out, field::POLICY_LOG, log));
}

fn layer4(out: &mut Vec<u8>, l4: Layer4) {
    let ports = |out: &mut Vec<u8>, source: u16, destination: u16| {
        number(out, 1, source);
        number(out, 2, destination);
    };
    match l4 {
        Layer4::Tcp { source_port, destination_port, flags } => message(out, 1, |out| {
            ports(out, source_port, destination_port);
            message(out, 3, |out| (0..9u32).for_each(|bit| number(out, bit + 1, flags.0 >> bit & 1)));
        }),
        Layer4::Udp { source_port, destination_port } => {
            message(out, 2, |out| ports(out, source_port, destination_port));
        }
        Layer4::Icmpv4 { kind, code } => message(out, 3, |out| ports(out, kind.into(), code.into())),
        Layer4::Icmpv6 { kind, code } => message(out, 4, |out| ports(out, kind.into(), code.into())),
        Layer4::Sctp { source_port, destination_port } => {
            message(out, 5, |out| ports(out, source_port, destination_port));
        }
    }
}

fn endpoint(out: &mut Vec<u8>, e: &Endpoint) {
    number(out, 2, e.identity);
    text(out, 3, &e.namespace);
    e.labels.iter().for_each(|label| repeated(out, 4, label));
    text(out, 5, &e.pod_name);
    for workload in &e.workloads {
        message(out, 6, |out| {
            text(out, 1, &workload.name);
            text(out, 2, &workload.kind);
        });
    }
    text(out, 7, &e.cluster_name);
}

fn service(out: &mut Vec<u8>, s: &Service) {
    text(out, 1, &s.name);
    text(out, 2, &s.namespace);
}

fn policy(out: &mut Vec<u8>, p: &PolicyRef) {
    text(out, 1, &p.name);
    text(out, 2, &p.namespace);
    let labels: [(&str, &str); 3] = [("derived-from", &p.kind), ("name", &p.name), ("namespace", &p.namespace)];
    for (key, value) in labels.into_iter().filter(|(key, value)| *key != "namespace" || !value.is_empty()) {
        delimited(out, 3, |out| {
            for part in [convert::POLICY_LABEL, key, "=", value] {
                out.extend_from_slice(part.as_bytes());
            }
        });
    }
    text(out, 5, &p.kind);
}

// ---- protobuf: https://protobuf.dev/programming-guides/encoding

fn time(out: &mut Vec<u8>, tag: u32, time: axoneme_flow::Time) {
    let stamp = convert::timestamp(time);
    message(out, tag, |out| {
        number(out, 1, stamp.seconds.cast_unsigned());
        signed(out, 2, stamp.nanos);
    });
}

/// Left out where it is the default.
fn number(out: &mut Vec<u8>, tag: u32, value: impl Into<Varint>) {
    let Varint(value) = value.into();
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

/// A number that a varint holds; negative ones in ten bytes, as protobuf has them.
struct Varint(u64);

macro_rules! unsigned {
    ($($kind:ty),*) => {
        $(impl From<$kind> for Varint {
            fn from(n: $kind) -> Self {
                Self(n.into())
            }
        })*
    };
}

unsigned!(bool, u16, u32, u64);

impl From<i32> for Varint {
    fn from(n: i32) -> Self {
        Self(i64::from(n).cast_unsigned())
    }
}

fn signed(out: &mut Vec<u8>, tag: u32, value: i32) {
    number(out, tag, value);
}

fn bytes(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    if !value.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(value.len() as u64, out);
        out.extend_from_slice(value);
    }
}

fn text(out: &mut Vec<u8>, tag: u32, value: &str) {
    bytes(out, tag, value.as_bytes());
}

/// Its text; that of IPv4 by hand, since there are many.
fn address(out: &mut Vec<u8>, tag: u32, address: IpAddr) {
    let IpAddr::V4(v4) = address else { return displayed(out, tag, &address) };
    delimited(out, tag, |out| {
        for (n, octet) in v4.octets().into_iter().enumerate() {
            if n > 0 {
                out.push(b'.');
            }
            let digits = [octet / 100, octet / 10 % 10, octet % 10];
            let shown = digits.iter().enumerate().skip_while(|(n, digit)| **digit == 0 && *n < 2);
            out.extend(shown.map(|(_, digit)| b'0' + digit));
        }
    });
}

/// One of many: an empty one counts, too.
fn repeated(out: &mut Vec<u8>, tag: u32, value: &str) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value.as_bytes());
}

fn displayed(out: &mut Vec<u8>, tag: u32, value: &impl std::fmt::Display) {
    let start = out.len();
    // writing to a vector does not fail
    if delimited(out, tag, |out| drop(write!(out, "{value}"))) == 0 {
        out.truncate(start);
    }
}

fn message(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    delimited(out, tag, write);
}

/// Writes what is within, then its length before it: one byte is kept free for that, which is mostly enough. The length.
fn delimited(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) -> usize {
    encode_key(tag, WireType::LengthDelimited, out);
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    if let (Ok(short @ 0..128), Some(place)) = (u8::try_from(length), out.get_mut(at)) {
        *place = short;
        return length;
    }
    let mut prefix = Vec::with_capacity(5);
    encode_varint(length as u64, &mut prefix);
    out.splice(at..=at, prefix);
    length
}

#[cfg(test)]
mod tests {
    use axoneme_flow::{Enricher, testing};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::pb::observer::{GetFlowsResponse, get_flows_response::ResponseTypes};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_is_written_reads_as_the_message_that_is_converted(
            record in testing::arbitrary_record(),
            sequence: u64,
            cluster in prop_oneof![Just(String::new()), Just("prod".to_owned()), "[a-z]{120,200}"],
            details: bool,
        ) {
            let flow = Enricher::new("n1", &cluster, 42).flow(sequence, &record, &testing::names());
            let node = convert::node_name(&cluster, &flow.node_name);
            for facet in record.facets() {
                let expected = convert::flow(&flow, *facet, &cluster, details);
                let bytes = response(&flow, *facet, &node, details);
                let expected = GetFlowsResponse {
                    node_name: node.clone(),
                    time: expected.time,
                    response_types: Some(ResponseTypes::Flow(expected)),
                };
                prop_assert_eq!(GetFlowsResponse::decode(&*bytes).unwrap(), expected.clone());
                prop_assert_eq!(bytes.len(), expected.encoded_len(), "no field twice, none that is its default");
            }
        }
    }
}
