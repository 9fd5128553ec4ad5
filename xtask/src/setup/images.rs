//! The images that every local cluster has: pause, agnhost and CoreDNS, made from the cached binaries.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{go, rootfs};
use crate::command::{output, program};
use crate::oci::{self, ImageSpec, Layer, Rootfs};
use crate::progress::step;
use crate::settings;

/// The sandbox image, by the name that Kubernetes' own tests of the pinned version use.
pub(crate) const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
/// The test workload and its stand-ins: Kubernetes' own network tests name these.
pub(crate) const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
const AGNHOST_ALIASES: &[&str] =
    &["registry.k8s.io/e2e-test-images/busybox:1.37.0-1", "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0"];
/// The cluster's DNS server.
pub(crate) const COREDNS: &str = "registry.k8s.io/coredns/coredns:axoneme";
/// Real clients in the test image, where busybox' own are too simple for network tests.
const CLIENTS: &[&str] = &["bash", "getent", "curl", "dig", "nc", "ip", "ss", "iperf3", "tcpdump", "ping", "timeout"];
/// Raised when the content below changes without a change of the binaries.
const EDITION: &str = "1";

/// Where the archives are.
pub(crate) fn directory() -> Result<PathBuf> {
    Ok(go::cache()?.join(format!("images-{EDITION}")))
}

/// The archives, smallest first.
pub(crate) fn archives() -> Result<Vec<PathBuf>> {
    let dir = directory()?;
    Ok(["pause.tar", "coredns.tar", "agnhost.tar"].iter().map(|name| dir.join(name)).collect())
}

/// Makes the archives that are not in the cache.
pub(crate) fn build_missing() -> Result<()> {
    let bin = go::binaries()?;
    for archive in archives()? {
        if archive.is_file() {
            continue;
        }
        let name = archive.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        step(&format!("image {name}"), || {
            let spec = match name.as_str() {
                "pause" => pause(&bin)?,
                "coredns" => ImageSpec::new(COREDNS, "/coredns", single("/coredns", &bin.join("coredns"))),
                _ => agnhost(&bin)?,
            };
            // Two nodes import at the same moment on two cores: decompression would be the larger part of it.
            oci::write(&ImageSpec { layer: Layer::Plain, ..spec }, &archive)
        })?;
    }
    Ok(())
}

fn single(place: &str, from: &Path) -> Rootfs {
    let mut root = Rootfs::new();
    root.file(place, from, 0o755).dir("/etc", 0o755);
    root
}

fn pause(bin: &Path) -> Result<ImageSpec> {
    fs::create_dir_all(bin)?;
    let built = bin.join("pause");
    output(
        program("gcc")
            .args(["-Os", "-static", "-Wall", "-Werror", "-o"])
            .arg(&built)
            .arg(settings::repository().join("tools/cluster/pause/pause.c")),
    )?;
    Ok(ImageSpec::new(PAUSE, "/pause", single("/pause", &built)))
}

fn agnhost(bin: &Path) -> Result<ImageSpec> {
    let mut root = Rootfs::new();
    root.dir("/tmp", 0o1777).dir("/var/run", 0o755).dir("/root", 0o700).dir("/uploads", 0o755);
    root.text(
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n",
        0o644,
    );
    root.text("/etc/group", "root:x:0:\nuser-defined-in-image:x:1000:\n", 0o644);
    root.text("/etc/nsswitch.conf", "hosts: files dns\n", 0o644);
    for client in CLIENTS {
        rootfs::add_program(&mut root, client)?;
    }
    // Debian's busybox shell prefers its own applets to programs on the PATH, so it must not be the shell.
    root.link("/bin/sh", "bash").link("/usr/bin/env", "/bin/env");
    rootfs::add_busybox(&mut root)?;
    root.file("/agnhost", bin.join("agnhost"), 0o755).link("/agnhost-2", "agnhost");
    let mut spec = ImageSpec::new(AGNHOST, "/agnhost", root);
    spec.names.extend(AGNHOST_ALIASES.iter().map(|&name| name.to_owned()));
    spec.cmd = vec!["pause".to_owned()];
    Ok(spec)
}
