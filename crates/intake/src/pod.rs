//! Pod (`v1`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use axoneme_model::{Kind, Protocol, world::Pod};
use serde_json::Value;

use crate::{
    address::ip,
    error::ObjectErrors,
    field::Field,
    meta::{annotations, labels, uid},
    read,
};

/// Protocols of container and service ports.
pub(crate) const TRANSPORTS: [(&str, Protocol); 3] =
    [("TCP", Protocol::TCP), ("UDP", Protocol::UDP), ("SCTP", Protocol::SCTP)];

/// Container ports by name.
type NamedPorts = BTreeMap<Arc<str>, BTreeSet<(Protocol, u16)>>;

/// Reads a Pod. None if it is not on the pod network: it uses the host's, or it has ended and given its addresses back.
///
/// A pod that is being deleted keeps its network until its containers have ended.
pub fn pod(object: &Value) -> Result<Option<Pod>, ObjectErrors> {
    read(object, Kind::Pod, |root, meta| {
        let spec = root.get("spec").filter(Field::object);
        let status = root.get("status").filter(Field::object);
        let flag = |name| spec.as_ref().and_then(|s| s.get(name).and_then(|f| f.bool())).unwrap_or(false);
        let text = |name| spec.as_ref().and_then(|s| s.get(name).and_then(|f| f.str())).unwrap_or_default();
        let phase = status.as_ref().and_then(|s| s.get("phase").and_then(|p| p.str())).unwrap_or_default();
        let networked = !flag("hostNetwork") && !matches!(phase, "Succeeded" | "Failed");
        let account = match text("serviceAccountName") {
            "" => "default",
            name => name,
        };
        let pod = Pod {
            namespace: meta.object.namespace.clone(),
            name: meta.object.name.clone(),
            uid: mirrored(root).unwrap_or_else(|| uid(root)),
            labels: labels(root),
            annotations: annotations(root),
            service_account: account.into(),
            node: text("nodeName").into(),
            addresses: status.as_ref().map(addresses).unwrap_or_default().into(),
            named_ports: spec
                .as_ref()
                .map(named_ports)
                .unwrap_or_default()
                .into_iter()
                .map(|(n, p)| (n, p.into()))
                .collect(),
        };
        (networked.then_some(pod), None)
    })
}

/// The uid that the kubelet knows a static pod by, and gives to the network plugin: the hash of its manifest, which its mirror
/// in the API carries as an annotation beside a uid of its own (kubernetes/pkg/kubelet/types `kubernetes.io/config.mirror`).
///
/// Only what has the form of such a hash counts, so that no pod can take the uid of an ordinary one.
fn mirrored(root: &Field<'_>) -> Option<Arc<str>> {
    let metadata = root.get("metadata")?;
    let annotations = metadata.get("annotations")?;
    let hash = annotations.get("kubernetes.io/config.mirror")?.str().filter(|h| is_hash(h))?;
    Some(hash.into())
}

/// An MD5 sum in hexadecimal digits.
fn is_hash(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `podIPs`, or `podIP` where an old kubelet wrote only that.
fn addresses(status: &Field<'_>) -> BTreeSet<IpAddr> {
    let mut out = BTreeSet::new();
    if let Some(list) = status.get("podIPs") {
        for item in list.items().filter(Field::object) {
            out.extend(item.get("ip").filter(|f| f.raw() != "").and_then(|f| ip(&f)));
        }
    }
    if out.is_empty()
        && let Some(address) = status.get("podIP").filter(|f| f.raw() != "")
    {
        out.extend(ip(&address));
    }
    out
}

/// Ports of containers, and of init containers that stay (sidecars). Two containers may give the same name to different
/// ports.
fn named_ports(spec: &Field<'_>) -> NamedPorts {
    let mut out = NamedPorts::new();
    if let Some(containers) = spec.get("containers") {
        for container in containers.items().filter(Field::object) {
            container_ports(&container, &mut out);
        }
    }
    if let Some(containers) = spec.get("initContainers") {
        for container in containers.items().filter(Field::object) {
            if container.get("restartPolicy").is_some_and(|p| p.raw() == "Always") {
                container_ports(&container, &mut out);
            }
        }
    }
    out
}

fn container_ports(container: &Field<'_>, out: &mut NamedPorts) {
    let Some(ports) = container.get("ports") else { return };
    for port in ports.items().filter(Field::object) {
        let Some(name) = port.get("name").and_then(|n| n.str()).filter(|n| !n.is_empty()) else { continue };
        let protocol = match port.get("protocol") {
            Some(p) => p.choice(&TRANSPORTS),
            None => Some(Protocol::TCP),
        };
        let number = port.require("containerPort").and_then(|p| p.int(1..=u16::MAX));
        if let (Some(protocol), Some(number)) = (protocol, number) {
            out.entry(name.into()).or_default().insert((protocol, number));
        }
    }
}
