//! The commands of the CNI plugin.
//!
//! ADD: intent → pair → programs → entries → inside the pod → link up → intent live → result. Each step can be undone,
//! and [`Engine::teardown`] undoes them all from any point; it is also what DEL, a restart after half an ADD, and GC do.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use axoneme_cni::{
    AddResult, Command, Config, Failure, Interface, IpConfig, Request, Route, SUPPORTED, code, protocol::Attachment,
};
use axoneme_kernel::{
    datapath::Hook,
    net::{HOST_MAC, LINK_PREFIX, Mac, OverlayKind, gateway},
};
use axoneme_model::rows::EndpointRow;
use ipnetwork::IpNetwork;
use serde_json::Value;

use super::{Doomed, Endpoint, Engine, Outgoing, health};
use crate::{
    Error,
    endpoint::{self, Intent, Phase, SCHEMA},
    reaper, store,
};

/// A removal that failed is tried again after so long.
const REMOVAL_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Why a command has no result.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Not yet: what it waits for.
    Wait(String),
    Failed(Failure),
}

impl From<Failure> for Refusal {
    fn from(f: Failure) -> Self {
        Self::Failed(f)
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Self::Failed(e.to_cni())
    }
}

type Served = Result<Value, Refusal>;

fn attachment(request: &Request) -> Result<Attachment, Failure> {
    if !endpoint::valid_container_id(&request.container_id) {
        return Err(Failure::new(code::ENVIRONMENT, format!("CNI_CONTAINERID {:?} is not one", request.container_id)));
    }
    if !endpoint::valid_interface_name(&request.ifname) {
        return Err(Failure::new(
            code::ENVIRONMENT,
            format!("CNI_IFNAME {:?} is not an interface name", request.ifname),
        ));
    }
    Ok(Attachment { container_id: request.container_id.clone(), ifname: request.ifname.clone() })
}

fn config(request: &Request) -> Result<Config, Failure> {
    let config: Config = serde_json::from_value(request.config.clone())
        .map_err(|e| Failure::new(code::CONFIG, format!("network configuration: {e}")))?;
    if !SUPPORTED.contains(&&*config.version) {
        let msg = format!("cniVersion {:?} is not one of {}", config.version, SUPPORTED.join(", "));
        return Err(Failure::new(code::VERSION, msg));
    }
    Ok(config)
}

impl Engine {
    pub(super) fn serve(&mut self, request: &Request, netns: Option<&OwnedFd>) -> Served {
        let config = config(request)?;
        match request.command {
            Command::Add => self.add(request, &config, netns),
            Command::Del => self.del(&attachment(request)?).map(|()| Value::Null),
            Command::Check => self.check(request, &config, netns).map(|()| Value::Null),
            Command::Gc => self.gc(config.valid_attachments.unwrap_or_default()).map(|()| Value::Null),
            Command::Status => self.status().map(|()| Value::Null),
            Command::Version => Ok(Value::Null),
        }
    }

    fn add(&mut self, request: &Request, config: &Config, netns: Option<&OwnedFd>) -> Served {
        let attachment = attachment(request)?;
        let netns = netns.ok_or_else(|| {
            Failure::new(code::ENVIRONMENT, "the plugin sent no descriptor of CNI_NETNS: plugin and agent do not fit")
        })?;
        if let Some(known) = self.endpoints.get(&attachment) {
            if known.intent.phase == Phase::Live && known.ifindex.is_some() {
                return Ok(print(&known.intent, config));
            }
            self.teardown(&attachment);
            self.remove_links_now();
            if self.endpoints.contains_key(&attachment) {
                return Err(Refusal::Wait(format!("an earlier ADD of {attachment} is still being undone")));
            }
        }
        let row = self.row_for(request)?;
        if let Some(reason) = self.lacks_address(&row) {
            return Err(Refusal::Wait(reason));
        }
        self.counters.adds += 1;
        let made = self.intend(&attachment, &row, &request.netns).and_then(|()| self.build(&attachment, netns));
        match made {
            Ok(result) => Ok(result.print(&config.version, config.previous.as_ref())),
            Err(error) => {
                self.counters.adds_failed += 1;
                tracing::error!(%error, pod = %row.name, namespace = %row.namespace, "ADD failed and is undone");
                self.teardown(&attachment);
                self.remove_links_now();
                Err(error.into())
            }
        }
    }

    /// The endpoint row of the pod, once everything it needs is in force.
    fn row_for(&self, request: &Request) -> Result<EndpointRow, Refusal> {
        if let Some(reason) = self.unready().into_iter().next() {
            return Err(Refusal::Wait(format!("the node is not ready: {reason}")));
        }
        let (uid, namespace, name) = (
            request.argument("K8S_POD_UID").unwrap_or_default(),
            request.argument("K8S_POD_NAMESPACE").unwrap_or_default(),
            request.argument("K8S_POD_NAME").unwrap_or_default(),
        );
        let rows = self.rows.rows();
        let row = if uid.is_empty() {
            rows.endpoints.values().find(|r| *r.namespace == *namespace && *r.name == *name)
        } else {
            // a row that says another name is of somebody else, whatever its uid
            rows.endpoints.get(uid).filter(|r| *r.namespace == *namespace && *r.name == *name)
        };
        let Some(row) = row else {
            return Err(Refusal::Wait(format!(
                "the operator has no row for pod {namespace}/{name} (uid {uid:?}) on this node yet"
            )));
        };
        if self.tables.slot_in_force(row.table).is_none() {
            let why = match self.tables.refusal(row.table) {
                Some(refusal) => format!("was refused: {}", refusal.message),
                None => "is not in force yet".to_owned(),
            };
            return Err(Refusal::Wait(format!("the policy table of pod {namespace}/{name} {why}")));
        }
        Ok(row.clone())
    }

    /// Allocates and writes the intent: from here on the agent may die on any line.
    fn intend(&mut self, attachment: &Attachment, row: &EndpointRow, netns: &str) -> Result<(), Error> {
        let addresses = self.allocate(row)?;
        let intent = Intent {
            schema: SCHEMA,
            phase: Phase::Creating,
            attachment: attachment.clone(),
            uid: row.uid.clone(),
            namespace: row.namespace.clone(),
            name: row.name.clone(),
            addresses,
            host_name: endpoint::host_name(attachment),
            pod_mac: endpoint::pod_mac(attachment),
            mtu: self.base.plan.as_ref().map_or(1500, |b| b.mtu),
            netkit: self.base.makes_netkit(),
            identity: row.identity.0,
            peer: row.peer.0,
            table: row.table.0,
            bandwidth: row.bandwidth,
            netns: netns.to_owned(),
        };
        if let Err(e) = store::save(&*self.parts.store, &intent.document(), &intent) {
            let now = self.parts.clock.now();
            for address in &intent.addresses {
                self.ipam.release(*address, now);
            }
            return Err(e.into());
        }
        for address in &intent.addresses {
            self.local.insert(*address, attachment.clone());
        }
        let endpoint = Endpoint {
            intent,
            ifindex: None,
            reported: None,
            fault: None,
            doomed: false,
            lost_since: None,
            unfit: None,
        };
        self.endpoints.insert(attachment.clone(), endpoint);
        Ok(())
    }

    /// Why the pod's pools have no address, where more may come: the operator gives the node blocks as its pods need them.
    fn lacks_address(&mut self, row: &EndpointRow) -> Option<String> {
        let config = self.rows.rows().config.as_ref()?;
        let families = [(config.ipv4, true, &row.pool_v4), (config.ipv6, false, &row.pool_v6)];
        let named = families.into_iter().filter(|(wanted, _, pool)| *wanted && !pool.is_empty());
        let now = self.parts.clock.now();
        named.filter(|_| row.addresses.is_empty()).find_map(|(_, v4, pool)| {
            self.ipam.lacks(pool, v4, now).map(|e| format!("pod {}/{}: {e}", row.namespace, row.name))
        })
    }

    fn allocate(&mut self, row: &EndpointRow) -> Result<BTreeSet<IpAddr>, Error> {
        let now = self.parts.clock.now();
        let Some((ipv4, ipv6)) = self.rows.rows().config.as_ref().map(|c| (c.ipv4, c.ipv6)) else {
            return Err(Error::Node("the operator has no configuration for this node".to_owned()));
        };
        let mut got = BTreeSet::new();
        let result = if row.addresses.is_empty() {
            [(ipv4, true, &row.pool_v4), (ipv6, false, &row.pool_v6)]
                .into_iter()
                .filter(|(wanted, ..)| *wanted)
                .try_for_each(|(_, v4, pool)| {
                    let pool: &str = if pool.is_empty() { "default" } else { pool };
                    self.ipam.allocate(pool, v4, now).map(|a| got.extend([a]))
                })
        } else {
            row.addresses.iter().try_for_each(|a| self.ipam.claim(*a).map(|()| got.extend([*a])))
        };
        if let Err(e) = result {
            for address in &got {
                self.ipam.release(*address, now);
            }
            return Err(e.into());
        }
        Ok(got)
    }

    pub(super) fn build(&mut self, attachment: &Attachment, netns: &OwnedFd) -> Result<AddResult, Error> {
        let (network, sources) = (self.parts.network.clone(), self.sources());
        let Some(datapath) = self.datapath.clone() else {
            return Err(Error::Node("the datapath is not loaded yet".to_owned()));
        };
        let Some(link) = self.endpoints.get(attachment).map(|e| e.intent.link(&sources)) else {
            return Err(Error::Node(format!("{attachment} has no intent")));
        };
        let ifindex = network.create_pod_link(netns.as_fd(), &link)?;
        if let Some(e) = self.endpoints.get_mut(attachment) {
            e.ifindex = Some(ifindex);
        }
        if let Some(flows) = &self.parts.flows {
            flows.names(|names| names.upsert_interface(ifindex, &link.host_name));
        }
        // programs before the host side is up: no packet meets an empty hook; the pod's side may come first, since it has
        // no carrier until then
        let mut live = Ok(());
        let configured = network.configure_pod_beside(netns.as_fd(), &link, &mut || {
            live = self.attach_programs(&*datapath, Hook::Endpoint, ifindex).and_then(|()| {
                self.wish_endpoint(attachment);
                self.apply_entries(attachment)
            });
        });
        live?;
        configured?;
        network.connect_pod_link(ifindex, &link)?;
        let Some(endpoint) = self.endpoints.get_mut(attachment) else {
            return Err(Error::Node(format!("{attachment} has no intent")));
        };
        endpoint.intent.phase = Phase::Live;
        store::save(&*self.parts.store, &endpoint.intent.document(), &endpoint.intent)?;
        self.dirty.insert(attachment.clone());
        Ok(self.endpoints.get(attachment).map(|e| result(&e.intent)).unwrap_or_default())
    }

    /// The node's addresses, source of its own packets to pods.
    pub(super) fn sources(&self) -> Vec<IpAddr> {
        self.base.plan.as_ref().map(|b| b.addresses.clone()).unwrap_or_default()
    }

    /// Puts the endpoint's entries in force now; they are part of ADD's promise.
    fn apply_entries(&mut self, attachment: &Attachment) -> Result<(), Error> {
        let Some(datapath) = self.datapath.clone() else { return Ok(()) };
        self.apply(&*datapath);
        if self.is_applied(attachment) {
            return Ok(());
        }
        let addresses = self.endpoints.get(attachment).map(|e| e.intent.addresses.clone()).unwrap_or_default();
        let of_entries = self.entries.failures().find(|(k, ..)| addresses.contains(k)).map(|(_, f, _)| &f.message);
        let of_ips = self.ips.failures().find(|(k, ..)| addresses.contains(&k.ip())).map(|(_, f, _)| &f.message);
        let why = of_entries.or(of_ips).map_or("the datapath refused its entries", String::as_str);
        Err(Error::Node(format!("the datapath of {attachment} is not live: {why}")))
    }

    fn del(&mut self, attachment: &Attachment) -> Result<(), Refusal> {
        self.counters.dels += 1;
        if !self.endpoints.contains_key(attachment) {
            // nothing is known: a link of that name can only be left from a state that was lost
            let host_name = endpoint::host_name(attachment);
            if self.parts.network.links().map_err(Error::from)?.iter().any(|l| l.name == host_name) {
                self.doom(attachment.clone(), host_name, None, Vec::new());
            }
            return Ok(());
        }
        if self.teardown(attachment) {
            return Ok(());
        }
        let fault = self.endpoints.get(attachment).and_then(|e| e.fault.clone()).unwrap_or_default();
        Err(Failure::new(code::IO, format!("DEL of {attachment}: {fault}; it will be tried again")).into())
    }

    /// Takes an endpoint out of the datapath; its link with the programs on it, and its connections, are handed out for
    /// removal; the address comes free and the intent goes when that is done. True: nobody new can reach it.
    pub(super) fn teardown(&mut self, attachment: &Attachment) -> bool {
        let Some(endpoint) = self.endpoints.get_mut(attachment) else { return true };
        if endpoint.doomed {
            return true;
        }
        let was_live = endpoint.intent.phase == Phase::Live;
        endpoint.intent.phase = Phase::Removing;
        let (document, addresses) = (endpoint.intent.document(), endpoint.intent.addresses.clone());
        // a full disk must not keep a pod from being removed: after a crash the link's absence tells the same
        if let Err(error) = store::save(&*self.parts.store, &document, &endpoint.intent) {
            tracing::warn!(%error, %attachment, "removal goes on without its record");
        }
        if was_live && !health::is_ours(attachment) {
            self.outgoing.push(Outgoing::Endpoint(endpoint.intent.report(false, true)));
        }
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        // its queues go with its link
        if let Some(ifindex) = endpoint.ifindex {
            self.limits.forget(&ifindex);
        }
        for address in &addresses {
            self.entries.release(address);
            self.ips.release(&IpNetwork::from(*address));
        }
        let fenced = self.fence(&addresses);
        let Some(endpoint) = self.endpoints.get_mut(attachment) else { return true };
        match fenced {
            Ok(()) => {
                endpoint.doomed = true;
                let (host_name, ifindex) = (endpoint.intent.host_name.clone(), endpoint.ifindex);
                self.doom(attachment.clone(), host_name, ifindex, addresses);
                true
            }
            Err(error) => {
                tracing::error!(%error, %attachment, "removal is not complete");
                endpoint.fault = Some(error.to_string());
                self.removal_retry_at = Some(self.parts.clock.now() + REMOVAL_RETRY);
                false
            }
        }
    }

    fn doom(&mut self, attachment: Attachment, host_name: String, ifindex: Option<u32>, addresses: Vec<IpAddr>) {
        self.doomed.push(Doomed { attachment, host_name, ifindex, addresses });
    }

    /// Takes the entries away: nothing new passes to or from the pod.
    fn fence(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let Some(datapath) = self.datapath.clone() else { return Ok(()) };
        self.apply(&*datapath);
        if let Some(left) = addresses.iter().find(|a| self.entries.observed(a).is_some()) {
            let why = self.entries.failures().find(|(k, ..)| *k == left).map(|(_, f, _)| f.message.clone());
            return Err(Error::Node(format!("address {left} is still in the datapath: {}", why.unwrap_or_default())));
        }
        Ok(())
    }

    /// A link handed out for removal is gone, or could not be removed.
    pub fn link_removed(&mut self, doomed: &Doomed, result: Result<(), String>) {
        let Some(endpoint) = self.endpoints.get_mut(&doomed.attachment) else { return };
        let outcome = result.and_then(|()| {
            let document = endpoint.intent.document();
            self.parts.store.remove(&document).map_err(|e| e.to_string())
        });
        if let Err(error) = outcome {
            tracing::error!(error, attachment = %doomed.attachment, "removal is not complete; it is tried again");
            endpoint.fault = Some(error);
            endpoint.doomed = false;
            self.removal_retry_at = Some(self.parts.clock.now() + REMOVAL_RETRY);
            return;
        }
        let Some(endpoint) = self.endpoints.remove(&doomed.attachment) else { return };
        let now = self.parts.clock.now();
        for address in endpoint.intent.addresses {
            self.local.remove(&address);
            self.ipam.release(address, now);
            // the row of another node's pod with this address, if there is one, counts again
            self.wish_ip(IpNetwork::from(address));
        }
    }

    /// Removes handed out links in place: on the way back from a failed ADD, where the next try needs the name.
    pub(super) fn remove_links_now(&mut self) {
        let batch = std::mem::take(&mut self.doomed);
        let (network, grace) = (self.parts.network.clone(), self.parts.grace.clone());
        let result = reaper::remove(&batch, &*network, self.datapath.as_deref(), grace.as_deref());
        for doomed in batch {
            self.link_removed(&doomed, result.clone());
        }
    }

    fn check(&self, request: &Request, config: &Config, netns: Option<&OwnedFd>) -> Result<(), Refusal> {
        let attachment = attachment(request)?;
        let Some(endpoint) = self.endpoints.get(&attachment).filter(|e| e.intent.phase == Phase::Live) else {
            return Err(Failure::new(code::UNKNOWN_CONTAINER, format!("no such attachment: {attachment}")).into());
        };
        let mut faults: Vec<String> = endpoint.fault.iter().cloned().collect();
        faults.extend(previous_faults(&endpoint.intent, config));
        if let Some(netns) = netns {
            let link = endpoint.intent.link(&self.sources());
            faults.extend(self.parts.network.pod_faults(netns.as_fd(), &link).map_err(Error::from)?);
        }
        if !self.is_applied(&attachment) {
            faults.push("its addresses and policy are not live in the datapath".to_owned());
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(Failure::new(code::CHECK_FAILED, format!("{attachment}: {}", faults.join("; "))).into())
    }

    /// Removes everything of ours that belongs to no valid attachment.
    fn gc(&mut self, valid: Vec<Attachment>) -> Result<(), Refusal> {
        let valid: BTreeSet<Attachment> = valid.into_iter().collect();
        let stale: Vec<Attachment> =
            self.endpoints.keys().filter(|a| !valid.contains(a) && !health::is_ours(a)).cloned().collect();
        let mut left = Vec::new();
        for attachment in stale {
            tracing::info!(%attachment, "collecting an attachment that the runtime no longer knows");
            if !self.teardown(&attachment) {
                left.push(attachment.to_string());
            }
        }
        for link in self.parts.network.links().map_err(Error::from)? {
            let ours = link.name.starts_with(LINK_PREFIX) && OverlayKind::of_link(&link.name).is_none();
            if let Some(attachment) = endpoint::attachment_of(&link.alias).filter(|_| ours)
                && !valid.contains(&attachment)
                && !self.endpoints.contains_key(&attachment)
            {
                self.doom(attachment, link.name, Some(link.ifindex), Vec::new());
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        Err(Failure::new(code::IO, format!("GC: not removed yet: {}", left.join(", "))).into())
    }

    fn status(&self) -> Result<(), Refusal> {
        let reasons = self.unready();
        if reasons.is_empty() {
            return Ok(());
        }
        let running = self.endpoints.values().any(|e| e.fault.is_some());
        let code = if running { code::UNAVAILABLE_LIMITED } else { code::UNAVAILABLE };
        Err(Failure::new(code, reasons.join("; ")).into())
    }
}

/// What the runtime remembers of ADD against what is there.
fn previous_faults(intent: &Intent, config: &Config) -> Vec<String> {
    let Some(ips) = config.previous.as_ref().and_then(|p| p.get("ips")).and_then(Value::as_array) else {
        return Vec::new();
    };
    let named: BTreeSet<IpAddr> =
        ips.iter().filter_map(|ip| ip.get("address")?.as_str()?.split_once('/')?.0.parse().ok()).collect();
    intent
        .addresses
        .iter()
        .filter(|a| !named.contains(a))
        .map(|a| format!("address {a} is not in prevResult"))
        .collect()
}

fn print(intent: &Intent, config: &Config) -> Value {
    result(intent).print(&config.version, config.previous.as_ref())
}

fn result(intent: &Intent) -> AddResult {
    let interfaces = vec![
        Interface {
            name: intent.host_name.clone(),
            mac: HOST_MAC.to_string(),
            mtu: intent.mtu,
            sandbox: String::new(),
        },
        Interface {
            name: intent.attachment.ifname.clone(),
            mac: Mac(intent.pod_mac).to_string(),
            mtu: intent.mtu,
            sandbox: intent.netns.clone(),
        },
    ];
    let ips = intent.addresses.iter().map(|a| IpConfig {
        address: *a,
        prefix: IpNetwork::from(*a).prefix(),
        gateway: gateway(*a),
        interface: 1,
    });
    let routes = intent.addresses.iter().map(|a| Route {
        destination: if a.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.to_owned(),
        gateway: gateway(*a),
    });
    AddResult { interfaces, ips: ips.collect(), routes: routes.collect() }
}
