//! `google.protobuf.FieldMask` over flows.
//!
//! The mask works on the encoded message, by field number: it needs no code for each field, and what it keeps is
//! exactly what the client names.

use std::{collections::BTreeMap, sync::LazyLock};

use prost::{
    Message as _,
    encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint},
};
use prost_types::{FieldDescriptorProto, FileDescriptorSet, field_descriptor_proto::Label};

use crate::pb;

/// Paths that a mask may have: the flow has fewer fields.
const MAX_PATHS: usize = 512;

/// Fields to keep, by number; a leaf keeps all that is below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask(BTreeMap<u32, Mask>);

/// A path that names no field of a flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    #[error("field mask: {path:?}: {message} has no field {field:?}")]
    NoField { path: String, message: String, field: String },
    #[error("field mask: {path:?}: {field:?} has no fields of its own")]
    NoMessage { path: String, field: String },
    #[error("field mask: more than {MAX_PATHS} paths")]
    TooMany,
}

impl Mask {
    /// The mask of these paths of `flow.Flow`; none keeps everything.
    pub fn parse(paths: &[String]) -> Result<Option<Self>, MaskError> {
        if paths.len() > MAX_PATHS {
            return Err(MaskError::TooMany);
        }
        let mut root = Self::default();
        for path in paths {
            root.add(path)?;
        }
        Ok((!paths.is_empty()).then_some(root))
    }

    fn add(&mut self, path: &str) -> Result<(), MaskError> {
        let (mut node, mut message) = (self, ".flow.Flow".to_owned());
        let mut parts = path.split('.').peekable();
        while let Some(name) = parts.next() {
            let no_field =
                || MaskError::NoField { path: path.into(), message: message[1..].into(), field: name.into() };
            let field = FIELDS.get(&message).and_then(|m| m.get(name)).ok_or_else(no_field)?;
            let known = node.0.contains_key(&field.number);
            if known && node.0.get(&field.number).is_some_and(|below| below.0.is_empty()) {
                // a wider path came before
                return Ok(());
            }
            node = node.0.entry(field.number).or_default();
            if parts.peek().is_none() {
                node.0.clear();
            } else if let Some(below) = &field.message {
                message.clone_from(below);
            } else {
                return Err(MaskError::NoMessage { path: path.into(), field: name.into() });
            }
        }
        Ok(())
    }

    /// The flow with nothing but what the mask keeps.
    #[must_use]
    pub fn apply(&self, flow: &pb::flow::Flow) -> pb::flow::Flow {
        let mut kept = Vec::new();
        self.copy(&flow.encode_to_vec(), &mut kept);
        // parts of a valid message, put together again, are a valid message
        pb::flow::Flow::decode(&*kept).unwrap_or_default()
    }

    /// Copies the fields of an encoded message that are to stay. None: the bytes are no message.
    fn copy(&self, mut from: &[u8], to: &mut Vec<u8>) -> Option<()> {
        while !from.is_empty() {
            let (tag, wire) = decode_key(&mut from).ok()?;
            let length = match wire {
                WireType::Varint => {
                    let mut rest = from;
                    decode_varint(&mut rest).ok()?;
                    from.len() - rest.len()
                }
                WireType::SixtyFourBit => 8,
                WireType::ThirtyTwoBit => 4,
                WireType::LengthDelimited => usize::try_from(decode_varint(&mut from).ok()?).ok()?,
                WireType::StartGroup | WireType::EndGroup => return None,
            };
            let (value, rest) = from.split_at_checked(length)?;
            from = rest;
            let Some(below) = self.0.get(&tag) else { continue };
            encode_key(tag, wire, to);
            if wire != WireType::LengthDelimited {
                to.extend_from_slice(value);
                continue;
            }
            let mut inner = Vec::new();
            let value = if below.0.is_empty() {
                value
            } else {
                below.copy(value, &mut inner)?;
                &inner
            };
            encode_varint(value.len() as u64, to);
            to.extend_from_slice(value);
        }
        Some(())
    }
}

struct Field {
    number: u32,
    /// Type of a single message; none for anything that a path can't go into.
    message: Option<String>,
}

/// Fields of the messages of package `flow`, by full name and name.
static FIELDS: LazyLock<BTreeMap<String, BTreeMap<String, Field>>> = LazyLock::new(|| {
    // the bytes are made by this crate's build; without them no path is valid
    let set = FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap_or_default();
    let files = set.file.into_iter().filter(|f| f.package() == "flow");
    files
        .flat_map(|file| file.message_type)
        .map(|m| (format!(".flow.{}", m.name()), m.field.iter().filter_map(field).collect()))
        .collect()
});

fn field(f: &FieldDescriptorProto) -> Option<(String, Field)> {
    let single = f.label() != Label::Repeated;
    let message =
        f.type_name.clone().filter(|_| single && f.r#type() == prost_types::field_descriptor_proto::Type::Message);
    Some((f.name().to_owned(), Field { number: u32::try_from(f.number()).ok()?, message }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::flow::{Endpoint, Flow, Ip, Layer4, Tcp, TcpFlags, layer4::Protocol};

    fn sample() -> Flow {
        let end = |pod: &str| Endpoint {
            identity: 300,
            namespace: "shop".into(),
            pod_name: pod.into(),
            labels: vec!["k8s:app=web".into(), "k8s:tier=front".into()],
            ..Endpoint::default()
        };
        Flow {
            uuid: "u".into(),
            verdict: 2,
            source: Some(end("a")),
            destination: Some(end("b")),
            ip: Some(Ip { source: "10.0.0.1".into(), ..Ip::default() }),
            l4: Some(Layer4 {
                protocol: Some(Protocol::Tcp(Tcp {
                    source_port: 1,
                    destination_port: 80,
                    flags: Some(TcpFlags { syn: true, ..TcpFlags::default() }),
                })),
            }),
            summary: "s".into(),
            ..Flow::default()
        }
    }

    fn masked(paths: &[&str]) -> Flow {
        let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
        Mask::parse(&paths).unwrap().unwrap().apply(&sample())
    }

    #[test]
    fn only_the_named_fields_stay() {
        let expected = Flow {
            verdict: 2,
            source: Some(Endpoint {
                pod_name: "a".into(),
                labels: sample().source.unwrap().labels,
                ..Endpoint::default()
            }),
            summary: "s".into(),
            ..Flow::default()
        };
        assert_eq!(masked(&["verdict", "source.pod_name", "source.labels", "Summary", "l7"]), expected);
        assert_eq!(
            masked(&["l4.TCP.flags.SYN", "IP"]),
            Flow {
                ip: sample().ip,
                l4: Some(Layer4 {
                    protocol: Some(Protocol::Tcp(Tcp {
                        flags: Some(TcpFlags { syn: true, ..TcpFlags::default() }),
                        ..Tcp::default()
                    })),
                }),
                ..Flow::default()
            }
        );
    }

    #[test]
    fn a_wider_path_wins_in_either_order() {
        let all = Flow { source: sample().source, ..Flow::default() };
        assert_eq!(masked(&["source", "source.pod_name"]), all);
        assert_eq!(masked(&["source.pod_name", "source"]), all);
    }

    #[test]
    fn paths_that_name_nothing_are_refused() {
        let error = |path: &str| Mask::parse(&[path.to_owned()]).unwrap_err().to_string();
        assert!(error("src").contains("flow.Flow has no field"));
        assert!(error("source.port").contains("flow.Endpoint has no field"));
        assert!(error("verdict.name").contains("no fields of its own"));
        assert!(error("source.workloads.name").contains("no fields of its own"));
        assert!(error("").contains("no field"));
        assert_eq!(Mask::parse(&vec!["uuid".to_owned(); 1000]), Err(MaskError::TooMany));
        assert_eq!(Mask::parse(&[]), Ok(None));
    }
}
