//! Conversions between rows and protobuf messages. Into protobuf is total; from protobuf names the field that is wrong.

mod change;
mod node;
mod policy;
mod row;
mod service;

use std::{net::IpAddr, sync::Arc};

use axoneme_model::{Cidr, Kind, LabelKey, Labels, ObjectRef, Protocol, Source};

use crate::pb;

/// A message that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct WireError {
    /// Path of the field inside the message (`changes[3].upsert.ip.prefix.bits`).
    pub path: String,
    pub problem: String,
}

impl WireError {
    fn new(path: &str, problem: impl Into<String>) -> Self {
        Self { path: path.to_owned(), problem: problem.into() }
    }

    fn missing(path: &str) -> Self {
        Self::new(path, "missing")
    }
}

/// Puts the path of the enclosing field in front.
pub(crate) trait At {
    fn at(self, field: &str) -> Self;
    fn at_index(self, field: &str, index: usize) -> Self;
}

impl<T> At for Result<T, WireError> {
    fn at(self, field: &str) -> Self {
        self.map_err(|e| WireError { path: format!("{field}.{}", e.path), ..e })
    }

    fn at_index(self, field: &str, index: usize) -> Self {
        let dot = |path: &str| if path.is_empty() { "" } else { "." };
        self.map_err(|e| WireError { path: format!("{field}[{index}]{}{}", dot(&e.path), e.path), ..e })
    }
}

/// A model type and its message.
pub(crate) trait Wire: Sized {
    type Message;
    fn to_message(&self) -> Self::Message;
    fn from_message(m: Self::Message) -> Result<Self, WireError>;
}

pub(crate) fn required<T>(field: &str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or_else(|| WireError::missing(field))
}

pub(crate) fn name(field: &str, value: String) -> Result<Arc<str>, WireError> {
    if value.is_empty() { Err(WireError::new(field, "empty")) } else { Ok(value.into()) }
}

pub(crate) fn list<T: Wire>(field: &str, messages: Vec<T::Message>) -> Result<Vec<T>, WireError> {
    messages.into_iter().enumerate().map(|(i, m)| T::from_message(m).at_index(field, i)).collect()
}

pub(crate) fn messages<'a, T: Wire + 'a>(items: impl IntoIterator<Item = &'a T>) -> Vec<T::Message> {
    items.into_iter().map(Wire::to_message).collect()
}

pub(crate) fn narrow<T: TryFrom<u32>>(field: &str, value: u32) -> Result<T, WireError> {
    let limit = || format!("{value} does not fit {} bits", size_of::<T>() * 8);
    T::try_from(value).map_err(|_| WireError::new(field, limit()))
}

pub(crate) fn address_bytes(a: IpAddr) -> Vec<u8> {
    match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(crate) fn address(field: &str, bytes: &[u8]) -> Result<IpAddr, WireError> {
    let problem = || WireError::new(field, format!("an address has 4 or 16 bytes, not {}", bytes.len()));
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| problem())
}

pub(crate) fn addresses<C: FromIterator<IpAddr>>(field: &str, list: &[Vec<u8>]) -> Result<C, WireError> {
    list.iter().enumerate().map(|(i, b)| address("", b).at_index(field, i)).collect()
}

impl Wire for Cidr {
    type Message = pb::Prefix;

    fn to_message(&self) -> pb::Prefix {
        pb::Prefix { address: address_bytes(self.ip()), bits: self.prefix().into() }
    }

    fn from_message(m: pb::Prefix) -> Result<Self, WireError> {
        let ip = address("address", &m.address)?;
        let bits = narrow("bits", m.bits)?;
        Self::new(ip, bits).map_err(|_| WireError::new("bits", format!("{bits} is no prefix length of {ip}")))
    }
}

impl Wire for ObjectRef {
    type Message = pb::ObjectRef;

    fn to_message(&self) -> pb::ObjectRef {
        pb::ObjectRef {
            kind: self.kind.as_str().to_owned(),
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
        }
    }

    fn from_message(m: pb::ObjectRef) -> Result<Self, WireError> {
        let kind = Kind::from_name(&m.kind)
            .ok_or_else(|| WireError::new("kind", format!("{:?} is no kind that this version knows", m.kind)))?;
        Ok(Self { kind, namespace: m.namespace.into(), name: m.name.into() })
    }
}

pub(crate) fn label_messages(labels: &Labels) -> Vec<pb::Label> {
    let label = |(k, v): (&LabelKey, &str)| pb::Label {
        source: k.source.as_str().to_owned(),
        name: k.name.to_string(),
        value: v.to_owned(),
    };
    labels.iter().map(label).collect()
}

pub(crate) fn labels(messages: Vec<pb::Label>) -> Labels {
    let source = |s: String| match s.as_str() {
        "any" => Source::Any,
        "k8s" => Source::K8s,
        "reserved" => Source::Reserved,
        _ => Source::Other(s.into()),
    };
    let label = |m: pb::Label| (LabelKey { source: source(m.source), name: m.name.into() }, m.value.into());
    messages.into_iter().map(label).collect()
}

pub(crate) fn protocol(field: &str, value: u32) -> Result<Protocol, WireError> {
    narrow(field, value).map(Protocol)
}

#[cfg(test)]
pub(crate) mod tests;
