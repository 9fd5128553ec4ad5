//! [`BpfDatapath`]: the trait, delegated to the parts.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicU32},
};

use axoneme_abi::{
    Conntrack, Key4, Key6,
    event::Metric,
    guard::Guard,
    policy::Slot,
    service::{
        Affinity4Key, Affinity6Key, Backend4, Backend6, BackendKey, Reverse4, Reverse6, Service, Service4Key,
        Service6Key,
    },
    tables::{Endpoint, IpInfo, Node, Queue},
};
use ipnetwork::IpNetwork;

use super::{
    addresses::Nodes,
    clock::Clock,
    loader::{Budget, Programs},
    migration::Migration,
    policies::Tables,
    services::Sets,
    system::{Version, io_error},
    table::{Lpm, Table},
};
use crate::datapath::{
    Datapath, DatapathConfig, EndpointEntry, Fullness, Hook, IpEntry, Limit, NodeGuard, PolicyDefault, PolicyKey,
    PolicyTable, PolicyValue, Result, ServiceEntry,
};

/// Every map that is pinned.
pub(super) const MAPS: [&str; 34] = [
    "CONTROL",
    "CT4",
    "CT6",
    "IPCACHE4",
    "IPCACHE6",
    "ENDPOINTS4",
    "ENDPOINTS6",
    "NODES",
    "SLOTS",
    "POLICY",
    "SERVICES4",
    "SERVICES6",
    "BACKENDS4",
    "BACKENDS6",
    "AFFINITY4",
    "AFFINITY6",
    "TRANSLATIONS4",
    "TRANSLATIONS6",
    "REVERSE4",
    "REVERSE6",
    "SOCKETS4",
    "SOCKETS6",
    "FRAGMENTS4",
    "FRAGMENTS6",
    "GUARD",
    "APISERVERS4",
    "APISERVERS6",
    "GUARDED4",
    "GUARDED6",
    "QUEUES",
    "DROPS",
    "FLOWS",
    "METRIC",
    "LOST",
];

/// The maps that user space reads and writes.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) control: Table<u32, u32>,
    pub(super) ct4: Table<Key4, Conntrack>,
    pub(super) ct6: Table<Key6, Conntrack>,
    pub(super) ipcache4: Table<Lpm<[u8; 4]>, IpInfo>,
    pub(super) ipcache6: Table<Lpm<[u8; 16]>, IpInfo>,
    pub(super) endpoints4: Table<[u8; 4], Endpoint>,
    pub(super) endpoints6: Table<[u8; 16], Endpoint>,
    pub(super) nodes: Table<u32, Node>,
    pub(super) slots: Table<u32, Slot>,
    pub(super) policy: Table<u32, u32>,
    pub(super) services4: Table<Service4Key, Service>,
    pub(super) services6: Table<Service6Key, Service>,
    pub(super) backends4: Table<BackendKey, Backend4>,
    pub(super) backends6: Table<BackendKey, Backend6>,
    pub(super) affinity4: Table<Affinity4Key, Backend4>,
    pub(super) affinity6: Table<Affinity6Key, Backend6>,
    pub(super) translations4: Table<Key4, Backend4>,
    pub(super) translations6: Table<Key6, Backend6>,
    pub(super) reverse4: Table<Key4, Reverse4>,
    pub(super) reverse6: Table<Key6, Reverse6>,
    pub(super) guard: Table<u32, Guard>,
    pub(super) apiservers4: Table<[u8; 4], u32>,
    pub(super) apiservers6: Table<[u8; 16], u32>,
    pub(super) guarded4: Table<Key4, Conntrack>,
    pub(super) guarded6: Table<Key6, Conntrack>,
    pub(super) queues: Table<u32, Queue>,
    pub(super) metric: Table<u32, Metric>,
    pub(super) lost: Table<u32, u64>,
    pub(super) clock: Clock,
}

impl Maps {
    pub(super) fn open(dir: &Path, clock: Clock) -> Result<Self> {
        Ok(Self {
            control: Table::open(dir, "CONTROL")?,
            ct4: Table::open(dir, "CT4")?,
            ct6: Table::open(dir, "CT6")?,
            ipcache4: Table::open(dir, "IPCACHE4")?,
            ipcache6: Table::open(dir, "IPCACHE6")?,
            endpoints4: Table::open(dir, "ENDPOINTS4")?,
            endpoints6: Table::open(dir, "ENDPOINTS6")?,
            nodes: Table::open(dir, "NODES")?,
            slots: Table::open(dir, "SLOTS")?,
            policy: Table::open(dir, "POLICY")?,
            services4: Table::open(dir, "SERVICES4")?,
            services6: Table::open(dir, "SERVICES6")?,
            backends4: Table::open(dir, "BACKENDS4")?,
            backends6: Table::open(dir, "BACKENDS6")?,
            affinity4: Table::open(dir, "AFFINITY4")?,
            affinity6: Table::open(dir, "AFFINITY6")?,
            translations4: Table::open(dir, "TRANSLATIONS4")?,
            translations6: Table::open(dir, "TRANSLATIONS6")?,
            reverse4: Table::open(dir, "REVERSE4")?,
            reverse6: Table::open(dir, "REVERSE6")?,
            guard: Table::open(dir, "GUARD")?,
            apiservers4: Table::open(dir, "APISERVERS4")?,
            apiservers6: Table::open(dir, "APISERVERS6")?,
            guarded4: Table::open(dir, "GUARDED4")?,
            guarded6: Table::open(dir, "GUARDED6")?,
            queues: Table::open(dir, "QUEUES")?,
            metric: Table::open(dir, "METRIC")?,
            lost: Table::open(dir, "LOST")?,
            clock,
        })
    }
}

/// The packet path of this node. Made by [`super::Loader::open`].
#[derive(Debug)]
pub struct BpfDatapath {
    pub(super) config: DatapathConfig,
    /// Pins of the maps.
    pub(super) dir: PathBuf,
    pub(super) maps: Maps,
    pub(super) version: Version,
    programs: Mutex<Programs>,
    budget: Vec<Budget>,
    pub(super) nodes: Mutex<Nodes>,
    pub(super) tables: Mutex<Tables>,
    pub(super) sets: Mutex<Sets>,
    /// Whether the waiting room was opened.
    pub(super) room: Mutex<bool>,
    /// Older maps that connections are taken over from.
    pub(super) migration: Mutex<Option<Migration>>,
    /// Connections of each family that the last collection has left.
    pub(super) connections: [AtomicU32; 2],
}

/// Entries of both families.
#[doc(hidden)]
pub(super) type RawConntrack = (Vec<(Key4, Conntrack)>, Vec<(Key6, Conntrack)>);

/// A lock whose holder cannot panic half-way: every change behind it is one system call at a time, and the kernel's
/// state is the truth.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BpfDatapath {
    pub(super) fn assemble(
        config: DatapathConfig,
        dir: PathBuf,
        maps: Maps,
        (programs, budget): (Programs, Vec<Budget>),
        version: Version,
        migration: Option<Migration>,
    ) -> Result<Self> {
        let (programs, migration) = (Mutex::new(programs), Mutex::new(migration));
        let nodes = Mutex::new(Nodes::read(&maps)?);
        let tables = Mutex::new(Tables::read(&maps)?);
        let sets = Mutex::new(Sets::read(&maps)?);
        let datapath = Self {
            config,
            dir,
            maps,
            version,
            programs,
            budget,
            nodes,
            tables,
            sets,
            room: Mutex::new(false),
            migration,
            connections: Default::default(),
        };
        datapath.stock_tables()?;
        datapath.attach_sockets()?;
        Ok(datapath)
    }

    pub(super) fn programs(&self) -> MutexGuard<'_, Programs> {
        lock(&self.programs)
    }

    /// What the programs cost the verifier on this kernel.
    pub fn budget(&self) -> &[Budget] {
        &self.budget
    }

    /// Configuration that the programs were loaded with.
    pub const fn config(&self) -> &DatapathConfig {
        &self.config
    }

    /// A loaded program, for test runs.
    #[doc(hidden)]
    pub fn program(&self, name: &str) -> Result<std::os::fd::OwnedFd> {
        let programs = self.programs();
        let fd = super::loader::program(&programs, name)?;
        fd.try_clone_to_owned().map_err(|e| io_error("keep the program", e))
    }

    /// Raw conntrack entries and control words, for the comparison with the host build.
    #[doc(hidden)]
    pub fn raw_conntrack(&self) -> Result<RawConntrack> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        self.maps.ct4.walk(|k, c| v4.push((*k, *c)))?;
        self.maps.ct6.walk(|k, c| v6.push((*k, *c)))?;
        v4.sort_by_key(|e| e.0);
        v6.sort_by_key(|e| e.0);
        Ok((v4, v6))
    }

    /// As [`Self::raw_conntrack`], of the node's own connections.
    #[doc(hidden)]
    pub fn raw_guarded(&self) -> Result<RawConntrack> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        self.maps.guarded4.walk(|k, c| v4.push((*k, *c)))?;
        self.maps.guarded6.walk(|k, c| v6.push((*k, *c)))?;
        v4.sort_by_key(|e| e.0);
        v6.sort_by_key(|e| e.0);
        Ok((v4, v6))
    }

    /// One entry of each map, by keys that a test knows.
    #[doc(hidden)]
    pub fn raw_entry4(&self, key: &Key4) -> Result<Option<Conntrack>> {
        self.maps.ct4.get(key)
    }
    #[doc(hidden)]
    pub fn raw_entry6(&self, key: &Key6) -> Result<Option<Conntrack>> {
        self.maps.ct6.get(key)
    }

    /// Sets a word of the control map.
    #[doc(hidden)]
    pub fn set_control(&self, place: u32, value: u32) -> Result<()> {
        self.maps.control.put(&place, &value)
    }
    /// Reads a word of the control map.
    #[doc(hidden)]
    pub fn control(&self, place: u32) -> Result<u32> {
        Ok(self.maps.control.get(&place)?.unwrap_or(0))
    }
    /// The programs' slot values.
    #[doc(hidden)]
    pub fn raw_slot(&self, place: u16) -> Result<Slot> {
        Ok(self.maps.slots.get(&u32::from(place))?.unwrap_or_default())
    }

    /// Removes pins of maps of other ABI versions. Call it when every interface is attached: programs of another version
    /// then run nowhere.
    pub fn forget_other_versions(&self) -> Result<u32> {
        self.catch_up(true)?;
        let list = fs::read_dir(&self.config.pin_dir).map_err(|e| io_error("list the pin directory", e))?;
        let mut removed = 0;
        for entry in list {
            let path = entry.map_err(|e| io_error("list the pin directory", e))?.path();
            let version = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u32>().ok());
            if version.is_some_and(|v| v != axoneme_abi::VERSION) {
                fs::remove_dir_all(&path).map_err(|e| io_error(format!("remove {}", path.display()), e))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes every pin: links go, packets of pods pass no more programs, maps are freed with the last program.
    pub fn uninstall(self) -> Result<()> {
        for (_, ifindex) in self.attached()? {
            self.detach(ifindex)?;
        }
        super::waiting::demolish()?;
        fs::remove_dir_all(&self.config.pin_dir)
            .map_err(|e| io_error(format!("remove {}", self.config.pin_dir.display()), e))
    }
}

impl Datapath for BpfDatapath {
    fn stage_ip(&self, prefix: IpNetwork, entry: Option<IpEntry>) -> Result<()> {
        match entry {
            Some(entry) => self.put_ip(prefix, entry)?,
            None => self.delete_ip(prefix),
        }
        Ok(())
    }
    fn stage_endpoint(&self, address: IpAddr, entry: Option<EndpointEntry>) -> Result<()> {
        entry.map_or_else(|| self.delete_endpoint(address), |entry| self.put_endpoint(address, entry))
    }
    fn commit(&self) -> Result<()> {
        self.put_in_force()
    }
    fn ips(&self) -> Result<Vec<(IpNetwork, IpEntry)>> {
        self.list_ips()
    }
    fn endpoints(&self) -> Result<Vec<(IpAddr, EndpointEntry)>> {
        self.list_endpoints()
    }
    fn put_table(&self, slot: u16, table: &PolicyTable) -> Result<()> {
        self.replace_table(slot, table)
    }
    fn patch_table(&self, slot: u16, upserts: &[(PolicyKey, PolicyValue)], removals: &[PolicyKey]) -> Result<()> {
        self.change_table(slot, upserts, removals)
    }
    fn set_defaults(&self, slot: u16, ingress: PolicyDefault, egress: PolicyDefault) -> Result<()> {
        self.change_defaults(slot, ingress, egress)
    }
    fn remove_table(&self, slot: u16) -> Result<()> {
        self.delete_table(slot)
    }
    fn tables(&self) -> Result<Vec<(u16, PolicyTable)>> {
        self.list_tables()
    }
    fn table(&self, slot: u16) -> Result<Option<PolicyTable>> {
        self.read_table(slot)
    }
    fn upsert_service(&self, service: &ServiceEntry) -> Result<()> {
        self.put_service(service)
    }
    fn remove_service(&self, address: IpAddr, protocol: u8, port: u16) -> Result<()> {
        self.delete_service(address, protocol, port)
    }
    fn services(&self) -> Result<Vec<ServiceEntry>> {
        self.list_services()
    }
    fn attach(&self, hook: Hook, ifindex: u32) -> Result<()> {
        self.attach_interface(hook, ifindex)
    }
    fn detach(&self, ifindex: u32) -> Result<()> {
        self.detach_interface(ifindex)
    }
    fn attached(&self) -> Result<Vec<(Hook, u32)>> {
        self.attached_interfaces()
    }
    fn guard(&self) -> Result<Option<NodeGuard>> {
        self.read_guard()
    }
    fn set_guard(&self, guard: Option<&NodeGuard>) -> Result<()> {
        self.change_guard(guard)
    }
    fn set_limit(&self, ifindex: u32, limit: Option<&Limit>) -> Result<()> {
        limit.map_or_else(|| self.remove_limit(ifindex), |limit| self.put_limit(ifindex, limit))
    }
    fn limits(&self) -> Result<Vec<(u32, Limit)>> {
        self.list_limits()
    }
    fn limit_drops(&self) -> Result<Vec<(u32, [u32; 2])>> {
        self.list_limit_drops()
    }
    fn fullness(&self) -> Result<Vec<Fullness>> {
        self.count()
    }
    fn forget_connections(&self, address: IpAddr) -> Result<u32> {
        self.forget(&[address])
    }
    fn forget_connections_of(&self, addresses: &[IpAddr]) -> Result<u32> {
        self.forget(addresses)
    }
}
