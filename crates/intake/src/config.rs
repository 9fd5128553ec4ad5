//! AxonemeConfig (`axoneme.io/v1alpha1`) → [`Settings`].

mod datapath;
pub(crate) mod knob;
mod node;

use std::{collections::BTreeMap, sync::Arc};

use axoneme_crds::{
    AxonemeConfigSpec,
    axoneme_config::{IpFamily, IpamMode, validate_unknown},
};
use axoneme_model::{Cidr, Kind, policy::CidrScope, rows::DenyResponse, rows::PodDevice, world::ClusterConfig};
use serde_json::{Value, json};

pub use self::{
    datapath::{Conntrack, Masquerade, Native, Routing, Services},
    knob::{Difference, difference},
    node::{Agent, Cni, NodeHealth},
};
use crate::{
    Options,
    error::{FieldError, ObjectErrors},
    field::{Errors, Field},
    pod_ip_pool::{PoolFamily, pool_cidrs},
    read,
};

/// The one name that the object may have.
pub const CONFIG_NAME: &str = "default";

/// All settings, each with its default where the object leaves it out.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What changes verdicts: the part that the model knows.
    pub cluster: ClusterConfig,
    /// Whom CIDR rules of Cilium policies mean.
    pub cidr_scope: CidrScope,
    /// One or two, in the order of preference.
    pub ip_families: Vec<IpFamily>,
    pub routing: Routing,
    /// Bytes of the largest packet that a pod may send; none: derived from the uplink.
    pub mtu: Option<u32>,
    /// What connects a pod with its node.
    pub pod_device: PodDevice,
    pub ipam: Ipam,
    /// What a pod hears when its own policy denies what it sends.
    pub deny_response: DenyResponse,
    pub masquerade: Masquerade,
    pub services: Services,
    pub conntrack: Conntrack,
    pub cni: Cni,
    /// Flows that each node keeps.
    pub flow_buffer_events: u32,
    /// Seconds between Events of the same denial; 0: none.
    pub drop_events_seconds: u32,
    pub node_health: NodeHealth,
    pub agent: Agent,
}

/// Where pods get their addresses from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    pub mode: IpamMode,
    /// Mode ClusterPool; none for a family that `ip_families` leaves out.
    pub ipv4: Option<PoolFamily>,
    pub ipv6: Option<PoolFamily>,
    /// Mode MultiPool: the pool of pods that nothing gives another.
    pub default_pool: Arc<str>,
    /// Mode MultiPool: free addresses that each node should hold, by pool.
    pub pre_allocate: BTreeMap<Arc<str>, u32>,
}

impl Settings {
    /// How policies are read under these settings.
    #[must_use]
    pub const fn options(&self) -> Options {
        Options { cidr_scope: self.cidr_scope }
    }

    #[must_use]
    pub fn has(&self, family: IpFamily) -> bool {
        self.ip_families.contains(&family)
    }
}

impl Default for Settings {
    /// What an object without any setting means.
    fn default() -> Self {
        let empty = Value::Object(serde_json::Map::new());
        let errors = Errors::default();
        spec(&Field::root(&empty, &errors))
    }
}

/// Settings of which only those of these paths are said, and what is wrong with them.
///
/// Settings of mode Native are read as in that mode, whatever mode the cluster has.
pub(crate) fn partial<'v>(said: impl Iterator<Item = (&'static str, &'v Value)>) -> (Settings, Vec<FieldError>) {
    let mut object = json!({"spec": {"routing": {"mode": "Native"}}});
    for (path, value) in said {
        let mut at = &mut object;
        for key in path.split('.') {
            let Value::Object(fields) = at else { break };
            at = fields.entry(key).or_insert_with(|| json!({}));
        }
        at.clone_from(value);
    }
    let errors = Errors::default();
    let root = Field::root(&object, &errors);
    let settings = root.get("spec").map_or_else(Settings::default, |s| spec(&s));
    (settings, errors.into_vec())
}

/// Reads an AxonemeConfig.
pub fn config(object: &Value) -> Result<Settings, ObjectErrors> {
    read(object, Kind::AxonemeConfig, |root, meta| {
        // unknown settings of all sections, each with its new name
        for error in validate_unknown(root.raw()) {
            root.report(error.path, error.message);
        }
        if !meta.object.name.is_empty()
            && &*meta.object.name != CONFIG_NAME
            && let Some(metadata) = root.get("metadata")
            && let Some(name) = metadata.get("name")
        {
            name.invalid(format!("there is one AxonemeConfig; its name must be {CONFIG_NAME}"));
        }
        (root.get("spec").map_or_else(Settings::default, |s| spec(&s)), None)
    })
}

fn spec(field: &Field<'_>) -> Settings {
    let default = AxonemeConfigSpec::default();
    field.object();
    let ip_families = families(field).unwrap_or(default.ip_families);
    let (mut cluster, cidr_scope) = datapath::policy(field);
    cluster.cluster_name = cluster_name(field).unwrap_or(&default.cluster_name).into();
    cluster.dual_stack_world = ip_families.len() > 1;
    let flows = field.get("flows");
    if let Some(flows) = &flows {
        flows.object();
    }
    let flows = flows.as_ref();
    let buffer = flows.and_then(|f| f.get("bufferEvents")?.int(64..=1_048_576));
    let drop_events = flows.and_then(|f| f.get("dropEventsSeconds")?.int(0..=86_400));
    let routing = datapath::routing(field);
    cluster.host = datapath::host_firewall(field, &routing);
    Settings {
        cluster,
        cidr_scope,
        routing,
        mtu: field.get("mtu").and_then(|m| m.int(1280..=65_535)),
        pod_device: datapath::pod_device(field),
        ipam: ipam(field, &ip_families),
        ip_families,
        deny_response: datapath::deny_response(field),
        masquerade: datapath::masquerade(field),
        services: datapath::services(field),
        conntrack: datapath::conntrack(field),
        cni: node::cni(field),
        flow_buffer_events: buffer.unwrap_or(default.flows.buffer_events),
        drop_events_seconds: drop_events.unwrap_or(default.flows.drop_events_seconds),
        node_health: node::node_health(field),
        agent: node::agent(field),
    }
}

fn families(field: &Field<'_>) -> Option<Vec<IpFamily>> {
    let list = field.get("ipFamilies")?;
    let mut out = Vec::new();
    for item in list.items() {
        let Some(family) = item.choice(&[("IPv4", IpFamily::IPv4), ("IPv6", IpFamily::IPv6)]) else { continue };
        if out.contains(&family) {
            item.invalid("is there twice");
        }
        out.push(family);
    }
    if list.raw().is_array() && list.len() == 0 {
        list.invalid("needs at least one of IPv4 and IPv6");
    }
    (!out.is_empty()).then_some(out)
}

/// A DNS label of at most 32 characters: it is part of flows, identities and certificates.
fn cluster_name<'a>(field: &'a Field<'_>) -> Option<&'a str> {
    let name = field.get("clusterName")?;
    let text = name.str()?;
    let good = (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if !good {
        name.invalid("must be 1 to 32 lower case letters, digits and hyphens, with no hyphen at an end");
    }
    good.then_some(text)
}

fn ipam(field: &Field<'_>, families: &[IpFamily]) -> Ipam {
    let default = AxonemeConfigSpec::default().ipam;
    let ipam = field.get("ipam");
    if let Some(ipam) = &ipam {
        ipam.object();
    }
    let mode = ipam.as_ref().and_then(|i| {
        i.get("mode")?.choice(&[
            ("ClusterPool", IpamMode::ClusterPool),
            ("MultiPool", IpamMode::MultiPool),
            ("Kubernetes", IpamMode::Kubernetes),
            ("CRD", IpamMode::CRD),
        ])
    });
    let pool = ipam.as_ref().and_then(|i| i.get("clusterPool"));
    if let Some(pool) = &pool {
        pool.object();
    }
    let pool = pool.as_ref();
    let (v4, v6) = (&default.cluster_pool.ipv4, &default.cluster_pool.ipv6);
    let ipv4 = cluster_pool(pool.and_then(|p| p.get("ipv4")), 32, &v4.cidrs, v4.mask_size);
    let ipv6 = cluster_pool(pool.and_then(|p| p.get("ipv6")), 128, &v6.cidrs, v6.mask_size);
    let (default_pool, pre_allocate) = multi_pool(ipam.as_ref());
    Ipam {
        mode: mode.unwrap_or(default.mode),
        ipv4: families.contains(&IpFamily::IPv4).then_some(ipv4),
        ipv6: families.contains(&IpFamily::IPv6).then_some(ipv6),
        default_pool,
        pre_allocate,
    }
}

fn cluster_pool(field: Option<Field<'_>>, bits: u8, cidrs: &[String], mask_size: u8) -> PoolFamily {
    let default = |mask_size| PoolFamily { cidrs: cidrs.iter().filter_map(|c| c.parse().ok()).collect(), mask_size };
    let Some(field) = field else { return default(mask_size) };
    field.object();
    let mask_size = field.get("maskSize").and_then(|m| m.int(8..=bits)).unwrap_or(mask_size);
    let pool = match field.get("cidrs") {
        Some(list) => PoolFamily { cidrs: pool_cidrs(&list, bits, Some(mask_size)), mask_size },
        None => default(mask_size),
    };
    if let (None, Some(mask), Some(cidr)) = (
        field.get("cidrs"),
        field.get("maskSize"),
        pool.cidrs.iter().map(Cidr::prefix).max().filter(|prefix| *prefix > mask_size),
    ) {
        mask.invalid(format!("is larger than the pool, whose prefix length is {cidr}"));
    }
    pool
}

fn multi_pool(ipam: Option<&Field<'_>>) -> (Arc<str>, BTreeMap<Arc<str>, u32>) {
    let default = AxonemeConfigSpec::default().ipam.multi_pool;
    let field = ipam.and_then(|i| i.get("multiPool"));
    if let Some(field) = &field {
        field.object();
    }
    let name = field.as_ref().and_then(|f| {
        let pool = f.get("defaultPool")?;
        let text = pool.str()?;
        if text.is_empty() {
            pool.invalid("must be the name of a CiliumPodIPPool");
        }
        Some(text)
    });
    let counts = field.as_ref().and_then(|f| f.get("preAllocate"));
    let counts =
        counts.iter().flat_map(Field::entries).filter_map(|(pool, n)| Some((pool.into(), n.int(0..=u32::MAX)?)));
    let counts: BTreeMap<Arc<str>, u32> = counts.collect();
    (name.unwrap_or(&default.default_pool).into(), counts)
}
