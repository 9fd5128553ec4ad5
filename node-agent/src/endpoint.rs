//! A pod's interface on this node, and the intent that outlives the process.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use axoneme_cni::protocol::Attachment;
use axoneme_kernel::net::{LINK_PREFIX, Mac, PodDevice, PodLink};
use axoneme_model::{Bandwidth, Identity, rows::TableId};
use axoneme_wire::EndpointReport;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Names of intent documents start so.
pub const DOCUMENT_PREFIX: &str = "endpoint-";
/// Schema of [`Intent`]; raised with every change that an older agent would misread.
pub const SCHEMA: u32 = 1;

/// How far an endpoint has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// ADD has begun and was not answered: after a restart it is undone, and the runtime asks again.
    Creating,
    /// ADD was answered with success.
    Live,
    /// DEL has begun: after a restart it is finished.
    Removing,
}

/// What the agent means to have for one interface. Written before anything is done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub schema: u32,
    pub phase: Phase,
    pub attachment: Attachment,
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub addresses: BTreeSet<IpAddr>,
    pub host_name: String,
    pub pod_mac: [u8; 6],
    pub mtu: u32,
    /// Its device is netkit; else veth.
    #[serde(default)]
    pub netkit: bool,
    /// What was last put in force, for the time after a restart until rows are there.
    pub identity: u32,
    pub peer: u32,
    pub table: u64,
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// Path that the runtime gave, for the result of a repeated ADD.
    pub netns: String,
}

impl Intent {
    /// Name of its document.
    pub fn document(&self) -> String {
        document(&self.attachment)
    }

    /// The link as the network layer wants it.
    pub fn link(&self, sources: &[IpAddr]) -> PodLink {
        PodLink {
            device: if self.netkit { PodDevice::Netkit } else { PodDevice::Veth },
            host_name: self.host_name.clone(),
            pod_name: self.attachment.ifname.clone(),
            pod_mac: Mac(self.pod_mac),
            mtu: self.mtu,
            addresses: self.addresses.iter().copied().collect(),
            alias: alias(&self.attachment),
            sources: sources.to_vec(),
        }
    }

    pub fn report(&self, ready: bool, removed: bool) -> EndpointReport {
        EndpointReport {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            container_id: self.attachment.container_id.as_str().into(),
            addresses: self.addresses.clone(),
            ready,
            identity: Identity(self.identity),
            table: TableId(self.table),
            removed,
        }
    }
}

fn digest(attachment: &Attachment) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(attachment.container_id.as_bytes());
    hash.update([0]);
    hash.update(attachment.ifname.as_bytes());
    hash.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// Name of the intent's document: a hash, since container ids come from outside and name a file.
pub fn document(attachment: &Attachment) -> String {
    format!("{DOCUMENT_PREFIX}{}", hex(digest(attachment).split_at(16).0))
}

/// Name of the host side: 3 + 12 bytes, the most that a link's name can have (IFNAMSIZ - 1).
pub fn host_name(attachment: &Attachment) -> String {
    format!("{LINK_PREFIX}{}", hex(digest(attachment).split_at(6).0))
}

/// MAC of the pod's side: locally administered, unicast, the same for the same attachment.
pub fn pod_mac(attachment: &Attachment) -> [u8; 6] {
    // behind the bytes that name the host side
    let mut mac = [0x02; 6];
    for (to, from) in mac.iter_mut().skip(1).zip(digest(attachment).into_iter().skip(6)) {
        *to = from;
    }
    mac
}

/// Alias of the host side.
pub fn alias(attachment: &Attachment) -> String {
    format!("axoneme {attachment}")
}

/// The attachment that an alias names.
pub fn attachment_of(alias: &str) -> Option<Attachment> {
    let (container_id, ifname) = alias.strip_prefix("axoneme ")?.rsplit_once('/')?;
    Some(Attachment { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
}

/// Whether an interface name can be given to the kernel (linux/net/core/dev.c, `dev_valid_name`).
pub fn valid_interface_name(name: &str) -> bool {
    let fits = !name.is_empty() && name.len() < 16 && name != "." && name != "..";
    fits && name.bytes().all(|b| !b.is_ascii_whitespace() && b != b'/' && b != b':' && b != 0)
}

/// Whether a container id is one (CNI specification: alphanumeric, then alphanumeric, `_`, `.`, `-`).
pub fn valid_container_id(id: &str) -> bool {
    id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && id.len() <= 256
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_are_found_again() {
        let a = Attachment { container_id: "0123abc".into(), ifname: "eth0".into() };
        let b = Attachment { ifname: "eth1".into(), ..a.clone() };
        assert_eq!(host_name(&a).len(), 15);
        assert_ne!(host_name(&a), host_name(&b));
        assert_ne!(pod_mac(&a), pod_mac(&b));
        assert_eq!(pod_mac(&a)[0] & 3, 2, "locally administered, unicast");
        assert_eq!(attachment_of(&alias(&a)), Some(a));
        assert_eq!(attachment_of("something else"), None);
    }

    #[test]
    fn names_from_outside_are_checked() {
        for good in ["eth0", "net1.100", "a"] {
            assert!(valid_interface_name(good));
        }
        for bad in ["", ".", "..", "a/b", "sixteen-bytes-xx", "a b", "a:1"] {
            assert!(!valid_interface_name(bad), "{bad}");
        }
        assert!(valid_container_id("abc_1.2-3"));
        for bad in ["", "-abc", "../../etc", "a b"] {
            assert!(!valid_container_id(bad), "{bad}");
        }
    }
}
