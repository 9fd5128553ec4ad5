//! What Hubble's flow has no field for, for clients that ask for it.
//!
//! It is a `google.protobuf.Struct`, a type that clients in every language know: an `Any` of a type that a client does
//! not know makes the stock client refuse to print the whole flow as JSON. Even so it is sent only on request (the
//! header [`HEADER`]).

use std::collections::BTreeMap;

use axoneme_flow::flow::Extension;
use prost::Message as _;
use prost_types::{Any, Struct, Value, value::Kind};

use crate::convert;

/// Request header that asks for `extensions` in each flow; its value is `true`.
pub const HEADER: &str = "axoneme-details";

const TYPE: &str = "type.googleapis.com/google.protobuf.Struct";

fn text(s: &str) -> Value {
    Value { kind: Some(Kind::StringValue(s.to_owned())) }
}

fn number(n: impl Into<f64>) -> Value {
    Value { kind: Some(Kind::NumberValue(n.into())) }
}

fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value { kind: Some(Kind::StructValue(structure(fields))) }
}

fn structure(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<BTreeMap<_, _>>() }
}

pub(crate) fn any(e: &Extension) -> Any {
    let event = match e.event {
        axoneme_flow::Event::Drop => "DROP",
        axoneme_flow::Event::New => "NEW",
        axoneme_flow::Event::Closed => "CLOSED",
        axoneme_flow::Event::Judged => "JUDGED",
    };
    let mut fields = vec![("event", text(event)), ("protocol", number(e.protocol))];
    if e.length != 0 {
        fields.push(("length", number(e.length)));
    }
    for (name, counters) in [("forward", &e.forward), ("backward", &e.backward)] {
        if let Some(c) = counters {
            fields.push((name, object(convert::counters(c).map(|(k, n)| (k, number(n))))));
        }
    }
    if let Some(point) = e.onward {
        fields.push(("onward", text(point.word())));
    }
    for (name, node) in [("source_node", &e.source_node), ("destination_node", &e.destination_node)] {
        if !node.is_empty() {
            fields.push((name, text(node)));
        }
    }
    if let Some(hit) = &e.rule {
        let parts = [
            ("kind", text(&hit.rule.kind)),
            ("namespace", text(&hit.rule.namespace)),
            ("name", text(&hit.rule.name)),
            ("path", text(&hit.rule.path)),
            ("allow", Value { kind: Some(Kind::BoolValue(hit.allow)) }),
        ];
        fields.push(("rule", object(parts)));
    }
    Any { type_url: TYPE.to_owned(), value: structure(fields).encode_to_vec() }
}
