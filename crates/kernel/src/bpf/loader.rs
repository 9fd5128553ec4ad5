//! Opening the packet path: maps by their pins, programs loaded and verified.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use axoneme_abi::constants::{TICK_SHIFT, feature, global};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{Program, ProgramError},
};

use super::{
    clock::Clock,
    datapath::{BpfDatapath, Maps, lock},
    links, migration, sys,
    system::{Version, explain, io_error, netns_cookie, require_bpffs, require_cgroup2},
};
use crate::datapath::{DatapathConfig, DatapathError, Result, Timeouts};

/// Programs of interfaces.
pub(super) const CLASSIFIERS: [&str; 8] = [
    "from_container",
    "to_container",
    "from_netdev",
    "from_overlay",
    "to_overlay",
    "from_waiting",
    "to_queue",
    "from_queue",
];
/// Programs of the host firewall.
pub(super) const GUARDS: [&str; 2] = ["guard_in", "guard_out"];
/// Programs of the cgroup.
pub(super) const SOCKETS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// Seconds after which a connection is forgotten whose one end has closed and whose other is silent.
const HALF_CLOSED: u32 = 120;
/// Long enough for the slowest link, short enough that a sender has not come round to the same id.
const FRAGMENT: u32 = 5;

/// Time-outs in seconds.
fn timeouts(t: &Timeouts) -> [(&'static str, u32); 8] {
    [
        (global::TIMEOUT_ESTABLISHED, t.tcp_established),
        (global::TIMEOUT_OPENING, t.tcp_opening),
        (global::TIMEOUT_CLOSING, t.tcp_closing),
        (global::TIMEOUT_HALF_CLOSED, HALF_CLOSED.min(t.tcp_established)),
        (global::TIMEOUT_DATAGRAM, t.udp),
        (global::TIMEOUT_DATAGRAM_REPLIED, t.udp),
        (global::TIMEOUT_OTHER, t.other),
        (global::TIMEOUT_FRAGMENT, FRAGMENT),
    ]
}

/// What a program costs the verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub program: String,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
    /// Bytes after translation.
    pub translated_bytes: u32,
}

/// Opens a [`BpfDatapath`].
#[derive(Debug)]
pub struct Loader;

/// Loaded programs by name.
pub(super) type Programs = BTreeMap<&'static str, OwnedFd>;

impl Loader {
    /// Opens pinned maps (or makes them), loads the programs, and puts them behind the links that are pinned, if the
    /// maps were there already.
    ///
    /// Errors: what is missing is named (BPF filesystem, cgroup v2, capabilities); a program that the verifier refuses
    /// comes with the end of its log.
    pub fn open(config: DatapathConfig) -> Result<BpfDatapath> {
        Self::open_with(config, &Testing::default())
    }

    /// As [`Loader::open`], with the clock and the die in the hands of a test.
    #[doc(hidden)]
    pub fn open_with(config: DatapathConfig, testing: &Testing) -> Result<BpfDatapath> {
        require_bpffs(&config.pin_dir)?;
        if let Some(cgroup) = config.cgroup.as_deref().filter(|_| config.socket_lb) {
            require_cgroup2(cgroup)?;
        }
        let dir = maps_dir(&config.pin_dir);
        let migration = migration::find(&config.pin_dir, testing.older)?;
        let adopted = dir.join("CT4").exists();
        for d in [dir.clone(), links::dir(&config.pin_dir)] {
            fs::create_dir_all(&d).map_err(|e| explain(&format!("create {}", d.display()), e))?;
        }
        let version = Version::current()?;
        let clock = Clock::open()?;
        let wanted = wanted(&config, version);
        let (programs, budget) = load(&config, &dir, &constants(&config, version, clock.hertz(), testing), &wanted)?;
        let maps = Maps::open(&dir, clock)?;
        if let Some(m) = &migration {
            m.copy(&config.pin_dir)?;
        }
        let datapath = BpfDatapath::assemble(config, dir, maps, (programs, budget), version, migration)?;
        datapath.adopt_guard()?;
        if adopted {
            datapath.update_links()?;
        }
        give_memory_back();
        Ok(datapath)
    }
}

/// What tests hold in their hands.
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct Testing {
    /// Time and random numbers come from the control map, verdicts go to the packet's control block.
    pub enabled: bool,
    /// Time-outs in ticks, in place of those of the product; by the names of the globals.
    pub timeouts: Vec<(&'static str, u32)>,
    /// Features that the programs are to do without, by their bits.
    pub without: u32,
    /// An older version of the maps, and what becomes of its elements.
    pub older: Option<(u32, migration::Convert)>,
}

pub(super) fn maps_dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join(axoneme_abi::VERSION.to_string())
}

fn wanted(config: &DatapathConfig, _version: Version) -> Vec<&'static str> {
    let mut names = CLASSIFIERS.to_vec();
    if config.host_firewall {
        names.extend(GUARDS);
    }
    let told_apart = || !config.socket_lb_host_only || netns_cookie().is_ok();
    if config.socket_lb && config.cgroup.is_some() && told_apart() {
        names.extend(SOCKETS.iter().filter(|n| config.ipv6 || !n.ends_with('6')));
    }
    names
}

fn constants(config: &DatapathConfig, version: Version, hertz: u32, testing: &Testing) -> Vec<(&'static str, u32)> {
    let bits = [
        (config.native_routing, feature::NATIVE),
        (config.direct, feature::DIRECT),
        (config.ipv4, feature::IPV4),
        (config.ipv6, feature::IPV6),
        (config.services, feature::SERVICES),
        (config.allow_own_host, feature::ALLOW_OWN_HOST),
        (config.answer_denied, feature::ANSWER_DENIED),
        (true, feature::FLOWS),
        (version >= Version::SET_RETVAL, feature::SET_RETVAL),
    ];
    let features = bits.iter().filter(|b| b.0).fold(0, |f, b| f | b.1) & !testing.without;
    let mut all = vec![
        (global::UPLINK, config.uplink_ifindex),
        (global::OVERLAY, config.overlay_ifindex),
        (global::FEATURES, features),
        (global::TESTING, u32::from(testing.enabled)),
    ];
    all.extend(timeouts(&config.timeouts).map(|(name, seconds)| (name, ticks(seconds, hertz))));
    let choosers = if config.socket_lb_host_only { netns_cookie().unwrap_or_default() } else { 0 };
    all.extend([(global::CHOOSERS_LOW, choosers as u32), (global::CHOOSERS_HIGH, (choosers >> 32) as u32)]);
    for (name, value) in &testing.timeouts {
        all.retain(|(n, _)| n != name);
        all.push((name, *value));
    }
    all
}

/// Ticks of at least so many seconds.
pub(super) fn ticks(seconds: u32, hertz: u32) -> u32 {
    let jiffies = u64::from(seconds) * u64::from(hertz);
    u32::try_from(jiffies.div_ceil(1 << TICK_SHIFT)).unwrap_or(u32::MAX)
}

/// Frontends and places of backends that a family can have. The kernel takes 16 bytes a place at once, elements as they
/// come: 10 MiB a family.
const SERVICES: u32 = 131_072;
const BACKENDS: u32 = 524_288;

/// Sizes of the maps that depend on the configuration.
fn sizes(config: &DatapathConfig) -> [(&'static str, u32); 18] {
    let full = config.conntrack_entries.max(1024);
    let part = (full / 4).max(1024);
    let of = |on: bool, n: u32| if on { n } else { 64 };
    let services = |on: bool, n: u32| of(on && config.services, n);
    let sockets = |on: bool| of(on && config.socket_lb && config.cgroup.is_some(), part);
    [
        ("CT4", of(config.ipv4, full)),
        ("CT6", of(config.ipv6, full)),
        ("SERVICES4", services(config.ipv4, SERVICES)),
        ("SERVICES6", services(config.ipv6, SERVICES)),
        ("BACKENDS4", services(config.ipv4, BACKENDS)),
        ("BACKENDS6", services(config.ipv6, BACKENDS)),
        ("AFFINITY4", services(config.ipv4, part)),
        ("AFFINITY6", services(config.ipv6, part)),
        ("TRANSLATIONS4", services(config.ipv4, part)),
        ("TRANSLATIONS6", services(config.ipv6, part)),
        ("REVERSE4", services(config.ipv4, part)),
        ("REVERSE6", services(config.ipv6, part)),
        ("SOCKETS4", sockets(config.ipv4)),
        ("SOCKETS6", sockets(config.ipv6)),
        ("FRAGMENTS4", of(config.ipv4, 8192)),
        ("FRAGMENTS6", of(config.ipv6, 8192)),
        ("GUARDED4", of(config.ipv4 && config.host_firewall, part)),
        ("GUARDED6", of(config.ipv6 && config.host_firewall, part)),
    ]
}

fn load(
    config: &DatapathConfig,
    dir: &Path,
    constants: &[(&'static str, u32)],
    wanted: &[&'static str],
) -> Result<(Programs, Vec<Budget>)> {
    let object = axoneme_bpf_object::bytes();
    if object.is_empty() {
        return Err(io_error(
            "load the programs: this binary was built without them (BPF_SKIP=1)",
            io::Error::from(io::ErrorKind::Unsupported),
        ));
    }
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for (name, size) in sizes(config) {
        // A pinned map keeps its size; a changed size starts the map anew.
        let pin = dir.join(name);
        if let Ok(old) = sys::open_pin(&pin)
            && sys::map_info(old.as_fd()).is_ok_and(|i| i.max_entries != size)
        {
            fs::remove_file(&pin).map_err(|e| io_error(format!("unpin {}", pin.display()), e))?;
        }
        loader.map_max_entries(name, size);
    }
    for name in super::datapath::MAPS {
        loader.map_pin_path(name, Cow::Owned(dir.join(name)));
    }
    for (name, value) in constants {
        loader.override_global(name, value, true);
    }
    let mut ebpf = loader.load(object).map_err(|e| map_failure(&e))?;
    load_programs(&mut ebpf, wanted)
}

/// Loads all of them side by side: the verifier is most of what a start takes, and it takes one CPU a program.
fn load_programs(ebpf: &mut Ebpf, wanted: &[&'static str]) -> Result<(Programs, Vec<Budget>)> {
    let mut found: BTreeMap<&'static str, &mut Program> = BTreeMap::new();
    for (name, program) in ebpf.programs_mut() {
        if let Some(known) = wanted.iter().find(|w| **w == name) {
            found.insert(known, program);
        }
    }
    if let Some(missing) = wanted.iter().find(|w| !found.contains_key(**w)) {
        let message = "the object has no such program".into();
        return Err(DatapathError::Load { program: missing, message, log: String::new() });
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(LOADERS);
    let queue = Mutex::new(found.into_iter());
    let loaded = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = lock(&queue).next();
                    let Some((name, program)) = next else { return };
                    let outcome = load_program(program, name);
                    lock(&loaded).push((name, outcome));
                }
            });
        }
    });
    let (mut programs, mut budget) = (Programs::new(), Vec::new());
    for (name, outcome) in loaded.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let (fd, cost) = outcome?;
        budget.push(cost);
        programs.insert(name, fd);
    }
    budget.sort_by(|a, b| a.program.cmp(&b.program));
    Ok((programs, budget))
}

/// Gives back what reading the object took: it is the largest thing that the process ever holds, for a moment.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions (malloc_trim(3)); allocations of other threads stay as they are.
    #[allow(unsafe_code, reason = "a call of the C library")]
    unsafe {
        libc::malloc_trim(0);
    }
}

fn map_failure(e: &EbpfError) -> DatapathError {
    let mut cause: Option<&dyn std::error::Error> = Some(e);
    while let Some(c) = cause {
        if let Some(io) = c.downcast_ref::<io::Error>() {
            let source =
                io.raw_os_error().map_or_else(|| io::Error::other(io.to_string()), io::Error::from_raw_os_error);
            return explain(&format!("make the maps: {e}"), source);
        }
        cause = c.source();
    }
    io_error("read the BPF object", io::Error::other(e.to_string()))
}

fn load_program(program: &mut Program, name: &'static str) -> Result<(OwnedFd, Budget)> {
    let failed = |e: ProgramError| load_failure(name, &e);
    match program {
        Program::SchedClassifier(p) => p.load().map_err(failed)?,
        Program::CgroupSockAddr(p) => p.load().map_err(failed)?,
        _ => {
            return Err(DatapathError::Load {
                program: name,
                message: "the program is of an unexpected kind".into(),
                log: String::new(),
            });
        }
    }
    let info = program.info().map_err(failed)?;
    let budget = Budget {
        program: name.into(),
        verified_instructions: info.verified_instruction_count().unwrap_or(0),
        translated_bytes: info.size_translated().unwrap_or(0),
    };
    let fd = program.fd().map_err(failed)?.as_fd().try_clone_to_owned();
    let fd = fd.map_err(|e| io_error(format!("keep program {name}"), e))?;
    Ok((fd, budget))
}

/// Programs that are verified at once.
const LOADERS: usize = 4;

/// Lines of the verifier's log that an error carries.
const LOG_LINES: usize = 40;

fn load_failure(program: &'static str, e: &ProgramError) -> DatapathError {
    match e {
        ProgramError::LoadError { io_error, verifier_log } => {
            if io_error.raw_os_error() == Some(libc::EPERM) {
                return explain(&format!("load program {program}"), io::Error::from_raw_os_error(libc::EPERM));
            }
            let text = verifier_log.to_string();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or(&[]).join("\n");
            DatapathError::Load { program, message: io_error.to_string(), log: tail }
        }
        other => DatapathError::Load { program, message: other.to_string(), log: String::new() },
    }
}

/// A program's descriptor.
pub(super) fn program<'a>(programs: &'a Programs, name: &str) -> Result<BorrowedFd<'a>> {
    programs
        .get(name)
        .map(AsFd::as_fd)
        .ok_or_else(|| io_error(format!("program {name} is not loaded"), io::Error::from(io::ErrorKind::NotFound)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_timeout_of_the_configuration_reaches_its_constant() {
        let t = Timeouts { tcp_opening: 1, tcp_established: 2, tcp_closing: 3, udp: 4, other: 5 };
        let of = |name| timeouts(&t).into_iter().find(|(n, _)| *n == name).map(|(_, seconds)| seconds);
        let expected = [
            (global::TIMEOUT_OPENING, 1),
            (global::TIMEOUT_ESTABLISHED, 2),
            (global::TIMEOUT_CLOSING, 3),
            (global::TIMEOUT_DATAGRAM, 4),
            (global::TIMEOUT_DATAGRAM_REPLIED, 4),
            (global::TIMEOUT_OTHER, 5),
            // no longer than what is open
            (global::TIMEOUT_HALF_CLOSED, 2),
        ];
        for (name, seconds) in expected {
            assert_eq!(of(name), Some(seconds), "{name}");
        }
    }

    #[test]
    fn timeouts_are_never_shorter_than_asked() {
        for hertz in [100, 250, 300, 1000] {
            for seconds in [1, 10, 60, 21_600] {
                let milliseconds = u64::from(ticks(seconds, hertz)) * 256 * 1000 / u64::from(hertz);
                assert!(milliseconds >= u64::from(seconds) * 1000);
                assert!(milliseconds <= u64::from(seconds) * 1000 + 2560);
            }
        }
    }
}
