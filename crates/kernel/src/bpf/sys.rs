//! The `bpf(2)` calls that aya 0.14 does not offer, or offers only with `&mut` and names: elements, batches, links by
//! interface index, test runs. Layouts: `union bpf_attr` of include/uapi/linux/bpf.h.
#![allow(unsafe_code, reason = "raw system calls; every pointer handed over outlives its call")]

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::OnceLock,
};

const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const MAP_NEXT_KEY: libc::c_long = 4;
const OBJECT_PIN: libc::c_long = 6;
const OBJECT_GET: libc::c_long = 7;
const PROGRAM_RUN: libc::c_long = 10;
const OBJECT_INFO: libc::c_long = 15;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_DELETE_BATCH: libc::c_long = 27;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;

/// Attach types of `enum bpf_attach_type`.
pub(crate) const TCX_INGRESS: u32 = 46;
pub(crate) const TCX_EGRESS: u32 = 47;

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a `repr(C)` prefix of `union bpf_attr`, of the size that is passed.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(r).unwrap_or(0)) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The descriptor's number, as maps of maps take it.
pub(crate) fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn address<T>(x: &T) -> u64 {
    std::ptr::from_ref(x) as u64
}

/// Reads an element; none if it is absent.
pub(crate) fn lookup<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    // SAFETY: `Pod`: zeros are a value.
    let mut value: V = unsafe { std::mem::zeroed() };
    let mut attr = Element {
        map: number(map),
        key: address(key),
        value: std::ptr::from_mut(&mut value) as u64,
        ..Element::default()
    };
    match bpf(MAP_LOOKUP, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads all CPUs' parts of an element of a per-CPU map (values of a multiple of 8 bytes).
pub(crate) fn lookup_per_cpu<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    cpus: usize,
) -> io::Result<Vec<V>> {
    // SAFETY: as above.
    let mut values: Vec<V> = vec![unsafe { std::mem::zeroed() }; cpus];
    let mut attr =
        Element { map: number(map), key: address(key), value: values.as_mut_ptr() as u64, ..Element::default() };
    bpf(MAP_LOOKUP, &mut attr)?;
    Ok(values)
}

pub(crate) fn update<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, value: &V, flags: u64) -> io::Result<()> {
    let mut attr = Element { map: number(map), pad: 0, key: address(key), value: address(value), flags };
    bpf(MAP_UPDATE, &mut attr).map(drop)
}

/// Puts a map into a place of a map of maps.
pub(crate) fn update_inner(map: BorrowedFd<'_>, key: u32, inner: BorrowedFd<'_>) -> io::Result<()> {
    let value = number(inner);
    let mut attr = Element { map: number(map), key: address(&key), value: address(&value), ..Element::default() };
    bpf(MAP_UPDATE, &mut attr).map(drop)
}

/// Deletes an element. False: it was not there.
pub(crate) fn delete<K: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attr = Element { map: number(map), key: address(key), ..Element::default() };
    match bpf(MAP_DELETE, &mut attr) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The key after `key` (none: the first one).
pub(crate) fn next_key<K: aya::Pod>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    // SAFETY: as above.
    let mut next: K = unsafe { std::mem::zeroed() };
    let mut attr = Element {
        map: number(map),
        key: key.map_or(0, address),
        value: std::ptr::from_mut(&mut next) as u64,
        ..Element::default()
    };
    match bpf(MAP_NEXT_KEY, &mut attr) {
        Ok(_) => Ok(Some(next)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Elements of maps whose types this version does not know: keys and values as bytes.
pub(crate) mod raw {
    use std::{io, os::fd::BorrowedFd};

    use super::{Element, MAP_LOOKUP, MAP_NEXT_KEY, MAP_UPDATE, bpf, number};

    /// The key after `key` (none: the first one) of a map with keys as long as `next`.
    pub(crate) fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        let key = key.map_or(0, |k| k.as_ptr() as u64);
        let mut attr = Element { map: number(map), key, value: next.as_mut_ptr() as u64, ..Element::default() };
        found(bpf(MAP_NEXT_KEY, &mut attr))
    }

    /// Fills `value`, which must be as long as the map's values.
    pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        let (key, value) = (key.as_ptr() as u64, value.as_mut_ptr() as u64);
        found(bpf(MAP_LOOKUP, &mut Element { map: number(map), key, value, ..Element::default() }))
    }

    /// Writes an element. The slices must be as long as the map's keys and values.
    pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
        bpf(MAP_UPDATE, &mut Element { map: number(map), pad: 0, key, value, flags }).map(drop)
    }

    fn found(r: io::Result<i32>) -> io::Result<bool> {
        match r {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct Batch {
    // Where to begin, where to go on.
    from: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element: u64,
    whole: u64,
}

/// Where a batched walk stands. Hash maps keep a bucket number, tries and arrays a key: 64 bytes hold either.
pub(crate) struct Cursor {
    token: [u64; 8],
    started: bool,
}

impl Cursor {
    pub(crate) const fn new() -> Self {
        Self { token: [0; 8], started: false }
    }
}

/// Reads up to the vectors' capacity of elements. False: that was the last of them. `ENOSPC`: a hash bucket holds more
/// than the capacity.
pub(crate) fn lookup_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    cursor: &mut Cursor,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
) -> io::Result<bool> {
    keys.clear();
    values.clear();
    let mut next = [0u64; 8];
    let mut attr = Batch {
        from: if cursor.started { address(&cursor.token) } else { 0 },
        next: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(keys.capacity().min(values.capacity())).unwrap_or(u32::MAX),
        map: number(map),
        ..Batch::default()
    };
    let more = match bpf(MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => true,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => false,
        Err(e) => return Err(e),
    };
    let count = attr.count as usize;
    // SAFETY: the kernel wrote `count` keys and values, which is at most the capacity that was passed.
    unsafe {
        keys.set_len(count);
        values.set_len(count);
    }
    cursor.token = next;
    cursor.started = true;
    Ok(more)
}

/// Writes elements. Returns how many were written before the first failure, and that failure.
pub(crate) fn update_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> Result<(), (usize, io::Error)> {
    if keys.is_empty() {
        return Ok(());
    }
    let count = keys.len().min(values.len());
    let mut attr = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        map: number(map),
        ..Batch::default()
    };
    bpf(MAP_UPDATE_BATCH, &mut attr).map(drop).map_err(|e| (attr.count as usize, e))
}

/// Deletes elements; absent ones are passed over. Returns how many were deleted.
pub(crate) fn delete_batch<K: aya::Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<usize> {
    let mut deleted = 0;
    let mut rest = keys;
    while !rest.is_empty() {
        let mut attr = Batch {
            keys: rest.as_ptr() as u64,
            count: u32::try_from(rest.len()).unwrap_or(u32::MAX),
            map: number(map),
            ..Batch::default()
        };
        let r = bpf(MAP_DELETE_BATCH, &mut attr);
        let done = attr.count as usize;
        deleted += done;
        match r {
            Ok(_) => break,
            // The element after the deleted ones is gone already.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => rest = rest.get(done + 1..).unwrap_or(&[]),
            Err(e) => return Err(e),
        }
    }
    Ok(deleted)
}

#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(OBJECT_PIN, &mut Object { path: path.as_ptr() as u64, fd: number(fd), flags: 0 }).map(drop)
}

pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf(OBJECT_GET, &mut Object { path: path.as_ptr() as u64, ..Object::default() }).map(owned)
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

/// Attaches a program to an interface's traffic-control hook (kernel 6.6). `kind`: attach type; `flags`: of its place.
pub(crate) fn create_tcx(program: BorrowedFd<'_>, ifindex: u32, [kind, flags]: [u32; 2]) -> io::Result<OwnedFd> {
    let attr = LinkCreate { program: number(program), target: ifindex, attach_type: kind, flags, ..Default::default() };
    bpf(LINK_CREATE, &mut { attr }).map(owned)
}

/// Attaches a program to a cgroup.
pub(crate) fn create_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr =
        LinkCreate { program: number(program), target: number(cgroup), attach_type, ..LinkCreate::default() };
    bpf(LINK_CREATE, &mut attr).map(owned)
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old: u32,
}

/// Replaces the program behind a link: packets see the one or the other. `ENOLINK`: the link's device is gone.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate { link: number(link), program: number(program), ..LinkUpdate::default() };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Takes the program off where the link holds it, before this returns. A link whose last holder goes is let go by the
/// kernel later, in a work of its own.
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_DETACH, &mut number(link)).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// Start of `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) program: u32,
    pad: u32,
    /// Of a tcx link: interface index (0: the device is gone) and attach type.
    pub(crate) ifindex: u32,
    pub(crate) attach_type: u32,
    rest: [u64; 6],
}

pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        fd: number(link),
        length: u32::try_from(size_of::<LinkInfo>()).unwrap_or(0),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJECT_INFO, &mut attr)?;
    Ok(info)
}

/// Start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    let mut attr = InfoAttr {
        fd: number(map),
        length: u32::try_from(size_of::<MapInfo>()).unwrap_or(0),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJECT_INFO, &mut attr)?;
    Ok(info)
}

const MAP_CREATE: libc::c_long = 0;
const MAP_BY_ID: libc::c_long = 14;
/// `BPF_MAP_TYPE_LPM_TRIE`, `BPF_F_NO_PREALLOC`.
const LPM_TRIE: u32 = 11;
const NO_PREALLOC: u32 = 1;

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
    types: u32,
    key_type: u32,
    value_type: u32,
}

/// Type information with a structure of 12 bytes and one of 8: key and value of a policy table (the format:
/// Documentation/bpf/btf.rst).
fn table_types() -> Vec<u8> {
    const STRINGS: &[u8] = b"\0u32\0key\0value\0a\0b\0c\0";
    // Places of the names, and kinds.
    let [u32_name, key, value, a, b, c] = [1, 5, 9, 15, 17, 19];
    let [integer, structure] = [1 << 24, 4 << 24];
    let types = [
        &[u32_name, integer, 4, 32][..],
        &[key, structure | 3, 12, a, 1, 0, b, 1, 32, c, 1, 64],
        &[value, structure | 2, 8, a, 1, 0, b, 1, 32],
    ]
    .concat();
    let (types_length, strings_length) = (u32::try_from(types.len() * 4), u32::try_from(STRINGS.len()));
    let types_length = types_length.unwrap_or(0);
    let mut out = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, types_length, types_length, strings_length.unwrap_or(0)].into_iter().chain(types) {
        out.extend(word.to_ne_bytes());
    }
    out.extend(STRINGS);
    out
}

const BTF_LOAD: libc::c_long = 18;
/// Places of the structures in [`table_types`].
const KEY_TYPE: u32 = 2;
const VALUE_TYPE: u32 = 3;

#[repr(C)]
#[derive(Default)]
struct BtfLoad {
    data: u64,
    log: u64,
    length: u32,
    log_length: u32,
    log_level: u32,
}

/// Makes an LPM trie for a map of maps.
///
/// It has type information because the object's own inner map has: kernels 5.15 to 6.1 take a map without for another
/// kind of map (`timer_off` differs in `bpf_map_meta_equal`) and refuse it with `EINVAL`.
pub(crate) fn create_trie(key_size: usize, value_size: usize, max_entries: u32) -> io::Result<OwnedFd> {
    static TYPES: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let types = TYPES.get_or_init(|| {
        let data = table_types();
        let length = u32::try_from(data.len()).unwrap_or(0);
        bpf(BTF_LOAD, &mut BtfLoad { data: data.as_ptr() as u64, length, ..BtfLoad::default() }).map(owned).ok()
    });
    let mut attr = MapCreate {
        kind: LPM_TRIE,
        key_size: u32::try_from(key_size).unwrap_or(0),
        value_size: u32::try_from(value_size).unwrap_or(0),
        max_entries,
        flags: NO_PREALLOC,
        name: *b"POLICY.inner\0\0\0\0",
        ..MapCreate::default()
    };
    if let Some(types) = types.as_ref().filter(|_| (key_size, value_size) == (12, 8)) {
        attr.types = number(types.as_fd());
        (attr.key_type, attr.value_type) = (KEY_TYPE, VALUE_TYPE);
    }
    bpf(MAP_CREATE, &mut attr).map(owned)
}

/// `BPF_MAP_TYPE_HASH`.
const HASH: u32 = 1;

/// Makes a hash map, as an older version may have had.
pub(crate) fn create_hash(key_size: u32, value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    let mut attr =
        MapCreate { kind: HASH, key_size, value_size, max_entries, flags: NO_PREALLOC, ..MapCreate::default() };
    bpf(MAP_CREATE, &mut attr).map(owned)
}

const PROGRAM_LOAD: libc::c_long = 5;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const CLASSIFIER: u32 = 3;

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    rest: [u64; 3],
}

/// Loads a classifier from its instructions.
pub(crate) fn load_classifier(code: &[u64]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut attr = ProgramLoad {
        kind: CLASSIFIER,
        count: u32::try_from(code.len()).unwrap_or(u32::MAX),
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..ProgramLoad::default()
    };
    bpf(PROGRAM_LOAD, &mut attr).map(owned)
}

/// The map of an id, as lookups in maps of maps give it. None: it is gone.
pub(crate) fn map_by_id(id: u32) -> io::Result<Option<OwnedFd>> {
    match bpf(MAP_BY_ID, &mut [id, 0, 0]) {
        Ok(fd) => Ok(Some(owned(fd))),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    pad: u32,
}

/// What a test run gave.
#[derive(Clone, Debug)]
pub struct RunOutput {
    /// The program's return value.
    pub result: i32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// The context afterwards: `struct __sk_buff` as words.
    pub context: [u32; CONTEXT_WORDS],
    /// Nanoseconds per run.
    pub nanoseconds: u32,
}

/// Words of `struct __sk_buff` that a run passes.
pub const CONTEXT_WORDS: usize = 48;

/// Runs a program `repeat` times on a packet (`BPF_PROG_TEST_RUN`). `context`: words of `struct __sk_buff`.
pub fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: Option<&[u32; CONTEXT_WORDS]>,
    repeat: u32,
) -> io::Result<RunOutput> {
    let mut out = vec![0u8; packet.len() + 256];
    let mut context_out = [0u32; CONTEXT_WORDS];
    let size = u32::try_from(size_of_val(&context_out)).unwrap_or(0);
    let mut attr = TestRun {
        program: number(program),
        size_in: u32::try_from(packet.len()).unwrap_or(u32::MAX),
        size_out: u32::try_from(out.len()).unwrap_or(u32::MAX),
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        context_size_in: if context.is_some() { size } else { 0 },
        context_in: context.map_or(0, address),
        context_size_out: if context.is_some() { size } else { 0 },
        context_out: if context.is_some() { std::ptr::from_mut(&mut context_out) as u64 } else { 0 },
        ..TestRun::default()
    };
    bpf(PROGRAM_RUN, &mut attr)?;
    out.truncate(attr.size_out as usize);
    Ok(RunOutput {
        result: i32::from_ne_bytes(attr.result.to_ne_bytes()),
        packet: out,
        context: context_out,
        nanoseconds: attr.duration,
    })
}
