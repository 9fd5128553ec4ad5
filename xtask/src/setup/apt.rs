//! Debian packages: only the missing ones, in one call.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{output, program};
use crate::progress::step;
use crate::settings::find_program;

/// The BPF compiler is Debian's `rustc-web`: a rustc whose LLVM matches the packaged `llvm-22-dev`, with its library source.
pub(crate) const BUILD: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22-dev",
    // C parts of dependencies (cryptography, allocator), and the linker of it all
    "gcc",
    "g++",
    "libc6-dev",
    "make",
    "pkg-config",
    "git",
    "ca-certificates",
    "bpftool",
    "iproute2",
    "iputils-ping",
    "nftables",
    "ethtool",
];

/// Build needs of runc (libseccomp), the cluster's network tools, and the clients that the test image carries.
pub(crate) const CLUSTER: &[&str] = &[
    "libseccomp-dev",
    "pkg-config",
    "gcc",
    "busybox-static",
    "jq",
    "openssl",
    "iproute2",
    "iptables",
    "nftables",
    "conntrack",
    "ethtool",
    "curl",
    "iperf3",
    "tcpdump",
    "iputils-ping",
    "netcat-openbsd",
    "bind9-dnsutils",
    "libc6-dev",
    "bpftool",
    "mount",
];

/// QEMU runs in software emulation; the rest goes into the guest.
pub(crate) const VM: &[&str] = &[
    "qemu-system-x86",
    "busybox-static",
    "kmod",
    "wireguard-tools",
    "xz-utils",
    "iproute2",
    "nftables",
    "iputils-ping",
];

fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    let listed = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(wanted)
        .output()
        .context(
            "cannot start dpkg-query: this setup knows Debian 12; elsewhere install the packages that it names by hand",
        )?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let installed: Vec<&str> = text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    let mut lacking: Vec<&str> = wanted.iter().copied().filter(|name| !installed.contains(name)).collect();
    lacking.sort_unstable();
    lacking.dedup();
    Ok(lacking)
}

/// Installs what is missing of `wanted`.
pub(crate) fn install(wanted: &[&str]) -> Result<()> {
    let lacking = missing(wanted)?;
    if lacking.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("missing Debian packages, and only root can install them: apt-get install {}", lacking.join(" "));
    }
    if find_program("apt-get").is_none() {
        bail!("apt-get is not here; install by hand: {}", lacking.join(" "));
    }
    step(&format!("Debian packages (minutes): {}", lacking.join(" ")), || {
        apt(&["update"])?;
        let mut words = vec!["--yes", "--no-install-recommends", "install"];
        words.extend_from_slice(&lacking);
        apt(&words).or_else(|error| {
            if !was_interrupted(&format!("{error:#}")) {
                return Err(error);
            }
            // An earlier run was ended between unpacking and configuring: apt refuses to go on, dpkg can.
            output(program("dpkg").args(["--configure", "-a"]).env("DEBIAN_FRONTEND", "noninteractive"))?;
            apt(&words)
        })
    })
    .with_context(|| format!("by hand: apt-get update && apt-get install {}", lacking.join(" ")))
}

/// Puts a package's file into a directory, and installs nothing.
pub(crate) fn download(package: &str, into: &Path) -> Result<()> {
    let fetch = || {
        // as the user that is asked: apt's own user may not write there
        let words = ["-qq", "-o", "APT::Sandbox::User=root", "download", package];
        output(program("apt-get").args(words).current_dir(into)).map(drop)
    };
    fetch().or_else(|_| {
        // of an older list, or of none
        apt(&["update"])?;
        fetch()
    })
}

/// Whether apt says that dpkg was ended in the middle of its work.
fn was_interrupted(error: &str) -> bool {
    error.contains("dpkg --configure -a")
}

fn apt(words: &[&str]) -> Result<()> {
    output(
        program("apt-get")
            .args(["-qq", "-o", "DPkg::Lock::Timeout=300"])
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::was_interrupted;

    #[test]
    fn an_interrupted_installation_is_known_by_what_apt_says() {
        let said = "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.";
        assert!(was_interrupted(said));
        assert!(!was_interrupted("E: Unable to locate package rustc-web"));
    }
}
