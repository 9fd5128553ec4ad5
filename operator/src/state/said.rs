//! What plans compare of the objects of nodes: read once, when an object comes. A plan looks at all nodes, and reading ten
//! thousand objects again for each would be most of it.
//!
//! Of each field there is what the operator itself would write there; what is otherwise in any way is kept as that, and
//! differs from everything wanted.

use std::collections::BTreeMap;

use axoneme_intake::RELEASING;
use axoneme_model::Cidr;
use serde_json::{Value, json};

use crate::plan::nodes::TAINT;

/// A field as it was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Said<T> {
    /// It is not there.
    #[default]
    Nothing,
    These(T),
    /// It is there, and not as the operator writes it.
    Otherwise,
}

impl<T: PartialEq + ?Sized> Said<Box<T>> {
    /// Whether it is just this.
    #[must_use]
    pub fn is(&self, wanted: &T) -> bool {
        matches!(self, Self::These(these) if **these == *wanted)
    }
}

impl<T> Said<T> {
    #[must_use]
    pub const fn is_there(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    fn of(value: Option<&Value>, read: impl FnOnce(&Value) -> Option<T>) -> Self {
        match value {
            None | Some(Value::Null) => Self::Nothing,
            Some(value) => read(value).map_or(Self::Otherwise, Self::These),
        }
    }
}

/// Types of addresses that are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    Internal,
    External,
    CiliumInternal,
}

impl AddressKind {
    const ALL: [Self; 3] = [Self::Internal, Self::External, Self::CiliumInternal];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "InternalIP",
            Self::External => "ExternalIP",
            Self::CiliumInternal => "CiliumInternalIP",
        }
    }
}

/// An address with its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub kind: AddressKind,
    /// As the object has it.
    pub text: Box<str>,
}

impl Address {
    /// As a CiliumNode has it.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({"type": self.kind.as_str(), "ip": self.text})
    }

    /// `field`: where the address is in its item. None: it is not as the operator writes it.
    fn read(item: &Value, field: &str) -> Option<Self> {
        let kind = item.get("type")?.as_str()?;
        let kind = AddressKind::ALL.into_iter().find(|k| k.as_str() == kind)?;
        Some(Self { kind, text: item.get(field)?.as_str()?.into() })
    }
}

/// Of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaidNode {
    pub uid: Option<Box<str>>,
    pub version: Option<Box<str>>,
    /// InternalIPs, then ExternalIPs.
    pub addresses: Box<[Address]>,
    /// All taints, where [`TAINT`] is among them: what is to stay has to be written again. Else none.
    pub taints: Box<[Value]>,
    /// Status of the condition `NetworkUnavailable`.
    pub network_unavailable: Option<Box<str>>,
}

impl SaidNode {
    /// Reads a Node object.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let mut addresses: Vec<_> =
            items(object, "/status/addresses").filter_map(|a| Address::read(a, "address")).collect();
        addresses.retain(|a| a.kind != AddressKind::CiliumInternal);
        // stable: those of a type stay in their order
        addresses.sort_by_key(|a| a.kind == AddressKind::External);
        let taints: Vec<_> = items(object, "/spec/taints").collect();
        let tainted = taints.iter().any(|t| t.get("key").is_some_and(|k| k == TAINT));
        let network = items(object, "/status/conditions")
            .find(|c| c.get("type").is_some_and(|t| t == "NetworkUnavailable"))
            .and_then(|c| text(c, "/status"));
        Self {
            uid: text(object, "/metadata/uid"),
            version: text(object, "/metadata/resourceVersion"),
            addresses: addresses.into(),
            taints: taints.into_iter().filter(|_| tainted).cloned().collect(),
            network_unavailable: network,
        }
    }
}

/// The blocks that a node has of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocated {
    pub pool: Box<str>,
    pub blocks: Vec<Cidr>,
    /// `allowFirstIP`, `allowLastIP`.
    pub edges: [bool; 2],
}

impl Allocated {
    const EDGES: [&str; 2] = ["allowFirstIP", "allowLastIP"];

    /// As a CiliumNode has it.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut one = json!({"pool": self.pool, "cidrs": texts(&self.blocks)});
        for (field, set) in Self::EDGES.into_iter().zip(self.edges) {
            if set && let Some(one) = one.as_object_mut() {
                one.insert(field.into(), true.into());
            }
        }
        one
    }

    fn read(item: &Value) -> Option<Self> {
        let pool = item.get("pool")?.as_str()?.into();
        let edges = Self::EDGES.map(|e| item.get(e) == Some(&Value::Bool(true)));
        let read = Self { pool, blocks: blocks(item.get("cidrs")?)?, edges };
        (read.json() == *item).then_some(read)
    }
}

/// Who has which address that somebody else lent, by address; and how far it is with those that go back. IPv4, IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lent {
    pub owners: [BTreeMap<Box<str>, Option<Box<str>>>; 2],
    pub releases: [BTreeMap<Box<str>, Option<Box<str>>>; 2],
}

impl Lent {
    /// Fields of `status.ipam`, IPv4 and IPv6.
    pub const USED: [&str; 2] = ["used", "ipv6-used"];
    pub const RELEASES: [&str; 2] = ["release-ips", "release-ipv6s"];

    fn read(ipam: &Value) -> Option<Box<Self>> {
        let map = |field: &str, read: fn(&Value) -> Option<&str>| {
            let entries = ipam.get(field).and_then(Value::as_object).into_iter().flatten();
            entries.map(|(k, v)| (k.as_str().into(), read(v).map(Into::into))).collect::<BTreeMap<_, _>>()
        };
        let lent = Self {
            owners: Self::USED.map(|f| map(f, |v| v.get("owner")?.as_str())),
            releases: Self::RELEASES.map(|f| map(f, Value::as_str)),
        };
        (lent != Self::default()).then(|| lent.into())
    }
}

/// Of a CiliumNode; of none, nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaidCiliumNode {
    pub uid: Option<Box<str>>,
    pub version: Option<Box<str>>,
    /// Whether the first of its owners is a Node: this operator made it for one.
    pub is_of_node: bool,
    /// The annotation that marks blocks.
    pub marks: Option<Box<str>>,
    pub addresses: Said<Box<[Address]>>,
    /// `spec.ipam.podCIDRs`.
    pub blocks: Said<Box<[Cidr]>>,
    /// `spec.ipam.pools.allocated`.
    pub pools: Said<Box<[Allocated]>>,
    /// `spec.ipam.pools.requested`: what agents of others ask for.
    pub requested: Option<Box<Value>>,
    pub lent: Option<Box<Lent>>,
    /// `status.overrides`, if it is a list.
    pub overrides: Option<Box<[Value]>>,
}

impl SaidCiliumNode {
    /// Reads a CiliumNode; null: there is none.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let annotations = object.pointer("/metadata/annotations");
        let owner = object.pointer("/metadata/ownerReferences/0/kind").and_then(Value::as_str);
        let whole = |a: &Value| Address::read(a, "ip").filter(|read| read.json() == *a);
        let addresses = |list: &Value| list.as_array()?.iter().map(whole).collect();
        let pools = |list: &Value| list.as_array()?.iter().map(Allocated::read).collect();
        let requested = object.pointer("/spec/ipam/pools/requested");
        let overrides = object.pointer("/status/overrides").and_then(Value::as_array);
        Self {
            uid: text(object, "/metadata/uid"),
            version: text(object, "/metadata/resourceVersion"),
            is_of_node: owner == Some("Node"),
            marks: annotations.and_then(|a| a.get(RELEASING)?.as_str()).map(Into::into),
            addresses: Said::of(object.pointer("/spec/addresses"), addresses),
            blocks: Said::of(object.pointer("/spec/ipam/podCIDRs"), |list| Some(blocks(list)?.into())),
            pools: Said::of(object.pointer("/spec/ipam/pools/allocated"), pools),
            requested: requested.cloned().map(Box::new),
            lent: object.pointer("/status/ipam").and_then(Lent::read),
            overrides: overrides.map(|list| list.clone().into()),
        }
    }
}

/// Prefixes as objects have them.
#[must_use]
pub fn texts(cidrs: &[Cidr]) -> Value {
    cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

/// None: one of them is not as the operator writes it.
fn blocks(list: &Value) -> Option<Vec<Cidr>> {
    let block = |text: &Value| {
        let text = text.as_str()?;
        text.parse().ok().filter(|cidr: &Cidr| cidr.to_string() == text)
    };
    list.as_array()?.iter().map(block).collect()
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text(object: &Value, pointer: &str) -> Option<Box<str>> {
    object.pointer(pointer).and_then(Value::as_str).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_node_there_is_what_plans_compare() {
        let mut node = json!({"metadata": {"uid": "u", "resourceVersion": "7"},
            "spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]},
            "status": {"addresses": [{"type": "ExternalIP", "address": "198.51.100.1"}, {"type": "Hostname", "address": "n"},
                {"type": "InternalIP", "address": "10.0.0.2"}, {"type": "InternalIP", "address": "fd00::2"}],
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "False"}]}});
        let said = SaidNode::of(&node);
        let texts: Vec<_> = said.addresses.iter().map(|a| &*a.text).collect();
        assert_eq!(texts, ["10.0.0.2", "fd00::2", "198.51.100.1"]);
        assert_eq!((said.uid.as_deref(), said.version.as_deref()), (Some("u"), Some("7")));
        assert_eq!(said.network_unavailable.as_deref(), Some("False"));
        assert!(said.taints.is_empty(), "nothing is planned by taints of others");
        node["spec"]["taints"].as_array_mut().unwrap().push(json!({"key": TAINT, "effect": "NoSchedule"}));
        assert_eq!(SaidNode::of(&node).taints.len(), 2, "those of others are to stay");
        assert_eq!(SaidNode::of(&Value::Null), SaidNode::default());
    }

    #[test]
    fn what_is_not_as_the_operator_writes_it_differs_from_everything() {
        let of = |spec: Value| SaidCiliumNode::of(&json!({"spec": spec}));
        let block: Cidr = "10.1.0.0/24".parse().unwrap();
        let address = |kind, text: &str| Address { kind, text: text.into() };
        let own = [address(AddressKind::Internal, "10.0.0.2"), address(AddressKind::CiliumInternal, "10.1.0.1")];
        let list: Vec<_> = own.iter().map(Address::json).collect();
        let shares = [Allocated { pool: "a".into(), blocks: vec![block], edges: [false, true] }];
        let pools: Vec<_> = shares.iter().map(Allocated::json).collect();
        let said = of(json!({"addresses": list, "ipam": {"podCIDRs": ["10.1.0.0/24"], "pools": {"allocated": pools}}}));
        assert!(said.addresses.is(&own) && said.blocks.is(&[block]) && said.pools.is(&shares));
        assert!(!said.addresses.is(&own[..1]) && !said.blocks.is(&[]) && !said.pools.is(&[]));

        for addresses in [
            json!([{"type": "Other", "ip": "10.0.0.2"}]),
            json!([{"type": "InternalIP", "ip": "10.0.0.2", "more": 1}]),
            json!("x"),
            json!([7]),
        ] {
            assert_eq!(of(json!({"addresses": addresses})).addresses, Said::Otherwise, "{addresses}");
        }
        for blocks in [json!(["10.1.0.1/24"]), json!(["10.1.0.0/24", "none"]), json!({}), json!([null])] {
            let said = of(json!({"ipam": {"podCIDRs": blocks}})).blocks;
            assert!(said.is_there() && !said.is(&[block]) && !said.is(&[]), "{blocks}");
        }
        for allocated in [json!([{"pool": "a"}]), json!([{"pool": "a", "cidrs": [], "allowFirstIP": false}]), json!(1)]
        {
            assert_eq!(of(json!({"ipam": {"pools": {"allocated": allocated}}})).pools, Said::Otherwise, "{allocated}");
        }
        let nothing = of(json!({"addresses": null, "ipam": {"podCIDRs": null}}));
        assert_eq!(nothing, SaidCiliumNode::default());
        assert!(!nothing.blocks.is_there() && !nothing.addresses.is(&[]));
        assert!(
            of(json!({"addresses": [], "ipam": {"pools": {"allocated": []}}})).pools.is(&[]),
            "an empty list is there"
        );
    }

    #[test]
    fn of_lent_addresses_every_key_is_kept_also_one_that_is_nobodys() {
        let said = SaidCiliumNode::of(&json!({"status": {"ipam": {
            "used": {"10.0.0.1": {"owner": "ns/a", "resource": "r"}, "10.0.0.2": 7}, "ipv6-used": {"FD00::1": {"owner": "ns/b"}},
            "release-ips": {"10.0.0.3": "marked-for-release"}}}}));
        let lent = said.lent.unwrap();
        assert_eq!(lent.owners[0]["10.0.0.1"].as_deref(), Some("ns/a"));
        assert_eq!(lent.owners[0]["10.0.0.2"], None);
        assert_eq!(lent.owners[1]["FD00::1"].as_deref(), Some("ns/b"));
        assert_eq!(lent.releases[0]["10.0.0.3"].as_deref(), Some("marked-for-release"));
        assert!(lent.releases[1].is_empty());
        assert_eq!(SaidCiliumNode::of(&json!({"status": {"ipam": {"operator-status": {}}}})).lent, None);
    }
}
