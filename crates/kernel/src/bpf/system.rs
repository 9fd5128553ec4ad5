//! What the kernel and the machine must offer, each with its name.

use std::{fs, io, os::fd::AsRawFd as _, path::Path};

use crate::datapath::{DatapathError, Result};

/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS: i64 = 0xcafe_4a11;
/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2: i64 = 0x6367_7270;

/// Returns when no program runs any more that was running when this was called: after a grace period of RCU, in
/// milliseconds. Programs of tc run inside of one, and `MEMBARRIER_CMD_GLOBAL` waits for it on all processors that
/// run; where it is not served (`nohz_full`) this waits for longer than a packet takes.
#[allow(unsafe_code, reason = "a system call without a safe wrapper")]
pub(crate) fn wait_for_programs() {
    const GLOBAL: libc::c_long = 1;
    // SAFETY: no pointer is handed over.
    let r = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if r != 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Kernel version, major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl Version {
    /// tcx links.
    pub(super) const TCX: Self = Self(6, 6);
    /// `bpf_set_retval`.
    pub(super) const SET_RETVAL: Self = Self(5, 18);

    pub(super) fn current() -> Result<Self> {
        let text =
            fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|e| io_error("read the kernel version", e))?;
        let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self(major, minor)),
            _ => Err(io_error("read the kernel version", io::Error::other(text))),
        }
    }
}

pub(super) fn io_error(operation: impl Into<String>, source: io::Error) -> DatapathError {
    DatapathError::Io { operation: operation.into(), source }
}

fn filesystem(path: &Path) -> io::Result<i64> {
    Ok(nix::sys::statfs::statfs(path)?.filesystem_type().0)
}

/// The nearest directory above that exists must be on a bpffs.
pub(super) fn require_bpffs(dir: &Path) -> Result<()> {
    let exists = dir.ancestors().find(|d| d.exists()).unwrap_or(Path::new("/"));
    match filesystem(exists) {
        Ok(BPF_FS) => Ok(()),
        Ok(_) => Err(io_error(
            format!(
                "pin below {}: {} is no BPF filesystem (mount -t bpf bpf /sys/fs/bpf)",
                dir.display(),
                exists.display()
            ),
            io::Error::from(io::ErrorKind::Unsupported),
        )),
        Err(e) => Err(io_error(format!("look at {}", exists.display()), e)),
    }
}

/// The directory must be of a cgroup v2 hierarchy.
pub(super) fn require_cgroup2(dir: &Path) -> Result<()> {
    match filesystem(dir) {
        Ok(CGROUP2) => Ok(()),
        Ok(_) => Err(io_error(
            format!("{} is no cgroup v2 directory: socket load balancing needs one", dir.display()),
            io::Error::from(io::ErrorKind::Unsupported),
        )),
        Err(e) => Err(io_error(format!("cgroup v2 directory {}", dir.display()), e)),
    }
}

/// Says what a refusal of the kernel means.
pub(super) fn explain(operation: &str, e: io::Error) -> DatapathError {
    let hint = match e.raw_os_error() {
        Some(libc::EPERM) => " (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or CAP_SYS_ADMIN)",
        Some(libc::ENOSYS) => " (the kernel has no bpf system call)",
        _ => "",
    };
    io_error(format!("{operation}{hint}"), e)
}

/// Cookie of the network namespace that this process is in, as `bpf_get_netns_cookie` has it. Kernels since 5.14.
#[allow(unsafe_code, reason = "a socket option without a safe wrapper")]
pub(super) fn netns_cookie() -> io::Result<u64> {
    /// `SO_NETNS_COOKIE` of include/uapi/asm-generic/socket.h.
    const NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to where they belong.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if r == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
