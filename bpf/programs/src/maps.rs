//! Maps and load-time constants.
//!
//! Sizes of the connection maps are set by the loader; those here are the most that a node may ask for by default.

use axoneme_abi::{
    Conntrack, DropEvent, FlowEvent, Key4, Key6,
    constants::CONTROLS,
    event::{METRICS, Metric},
    guard::{API_SERVERS, Guard},
    policy::{JUDGEMENTS, Judgement, PolicyKey, PolicyValue, SLOTS as SLOT_COUNT, Slot, TABLE_ENTRIES},
    service::{
        Affinity4Key, Affinity6Key, Backend4, Backend6, BackendKey, Fragment4, Fragment6, Ports, Reverse4, Reverse6,
        Service, Service4Key, Service6Key, Socket4Key, Socket6Key,
    },
    tables::{ANSWERED, Answers, Endpoint, IpInfo, NODES as NODE_COUNT, Node, QUEUES as QUEUE_COUNT, Queue, Waiting},
};
use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};

use axoneme_stages::{V4, V6, Work};

macro_rules! globals { ($($n:ident = $v:expr;)*) => { $( #[unsafe(no_mangle)] pub(crate) static $n: Global<u32> = Global::new($v); )* } }
globals! {
    UPLINK = 0;
    OVERLAY = 0;
    FEATURES = 0;
    TIMEOUT_ESTABLISHED = 8000;
    TIMEOUT_OPENING = 60;
    TIMEOUT_CLOSING = 10;
    TIMEOUT_HALF_CLOSED = 120;
    TIMEOUT_DATAGRAM = 61;
    TIMEOUT_DATAGRAM_REPLIED = 180;
    TIMEOUT_OTHER = 62;
    TIMEOUT_FRAGMENT = 5;
    TESTING = 0;
    CHOOSERS_LOW = 0;
    CHOOSERS_HIGH = 0;
}

const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub(crate) static CONTROL: Array<u32, { CONTROLS as usize }> = Array::new();
#[btf_map]
pub(crate) static CT4: LruHashMap<Key4, Conntrack, 65536> = LruHashMap::new();
#[btf_map]
pub(crate) static CT6: LruHashMap<Key6, Conntrack, 65536> = LruHashMap::new();
#[btf_map]
pub(crate) static IPCACHE4: LpmTrie<[u8; 4], IpInfo, 524288> = LpmTrie::new();
#[btf_map]
pub(crate) static IPCACHE6: LpmTrie<[u8; 16], IpInfo, 524288> = LpmTrie::new();
#[btf_map]
pub(crate) static ENDPOINTS4: HashMap<u32, Endpoint, 4096, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static ENDPOINTS6: HashMap<[u64; 2], Endpoint, 4096, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static NODES: Array<Node, { NODE_COUNT as usize }> = Array::new();
#[btf_map]
pub(crate) static SLOTS: Array<Slot, { SLOT_COUNT as usize }> = Array::new();
#[btf_map]
pub(crate) static POLICY: ArrayOfMaps<
    LpmTrie<PolicyKey, PolicyValue, { TABLE_ENTRIES as usize }>,
    { SLOT_COUNT as usize },
> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static SERVICES4: HashMap<Service4Key, Service, 131072, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static SERVICES6: HashMap<Service6Key, Service, 131072, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static BACKENDS4: HashMap<BackendKey, Backend4, 524288, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static BACKENDS6: HashMap<BackendKey, Backend6, 524288, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static AFFINITY4: LruHashMap<Affinity4Key, Backend4, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static AFFINITY6: LruHashMap<Affinity6Key, Backend6, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static TRANSLATIONS4: LruHashMap<Key4, Backend4, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static TRANSLATIONS6: LruHashMap<Key6, Backend6, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static REVERSE4: LruHashMap<Key4, Reverse4, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static REVERSE6: LruHashMap<Key6, Reverse6, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static SOCKETS4: LruHashMap<Socket4Key, Backend4, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static SOCKETS6: LruHashMap<Socket6Key, Backend6, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static FRAGMENTS4: LruHashMap<Fragment4, Ports, 8192> = LruHashMap::new();
#[btf_map]
pub(crate) static FRAGMENTS6: LruHashMap<Fragment6, Ports, 8192> = LruHashMap::new();

#[btf_map]
pub(crate) static GUARD: Array<Guard, 1> = Array::new();
#[btf_map]
pub(crate) static APISERVERS4: HashMap<u32, u32, { API_SERVERS as usize }, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static APISERVERS6: HashMap<[u64; 2], u32, { API_SERVERS as usize }, SPARSE> = HashMap::new();
/// Connections of the node itself, beside those of pods.
#[btf_map]
pub(crate) static GUARDED4: LruHashMap<Key4, Conntrack, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static GUARDED6: LruHashMap<Key6, Conntrack, 16384> = LruHashMap::new();

/// Queues of pods whose traffic has a limit.
#[btf_map]
pub(crate) static QUEUES: HashMap<u32, Queue, { QUEUE_COUNT as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub(crate) static DROPS: RingBuf<DropEvent, { 1 << 18 }> = RingBuf::new();
#[btf_map]
pub(crate) static FLOWS: RingBuf<FlowEvent, { 1 << 20 }> = RingBuf::new();
/// Where the stages of the long way leave things for each other.
#[btf_map]
pub(crate) static WORK4: PerCpuArray<Work<V4>, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static WORK6: PerCpuArray<Work<V6>, 1> = PerCpuArray::new();
/// Not pinned: what waits while programs are replaced is counted out once too often, which the next silence mends.
#[btf_map]
pub(crate) static WAITING: Array<Waiting, 1> = Array::new();
/// Judgements that were made. Not pinned: new programs begin with none.
#[btf_map]
pub(crate) static JUDGED: PerCpuArray<Judgement, { JUDGEMENTS as usize }> = PerCpuArray::new();
/// Answers to those whose packets were dropped. Not pinned: new programs begin with none.
#[btf_map]
pub(crate) static ANSWERS: PerCpuArray<Answers, { ANSWERED as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static METRIC: PerCpuArray<Metric, { METRICS as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static LOST: PerCpuArray<u64, 2> = PerCpuArray::new();
