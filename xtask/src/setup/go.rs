//! The cluster's binaries, built from the Go modules that `tools/cluster/<component>/go.mod` pins.
//!
//! The cache directory is named by a hash over those modules and the recipe below, so that checkouts which agree share
//! the binaries, and a changed version never meets an old binary.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::command::{output, program};
use crate::progress::step;
use crate::settings;

/// Raised when flags change in a way that the hash would not see.
const RECIPE: &str = "1";
/// Kinds of files that change a binary; manifests and texts do not.
const SOURCES: &[&str] = &["mod", "sum", "go", "c"];
const KUBERNETES: &str = "k8s.io/kubernetes";

/// One `go build`: packages of one module into the cache's `bin`.
#[derive(Debug)]
pub(crate) struct Component {
    /// For people.
    name: &'static str,
    /// Directory below `tools/cluster`.
    module: &'static str,
    /// The module whose version is the component's.
    source: &'static str,
    packages: &'static [&'static str],
    /// What the build leaves, relative to `bin`; the last one is looked for.
    binaries: &'static [&'static str],
    tags: &'static str,
    cgo: bool,
    /// The variable that the linker sets to the version.
    version_variable: Option<&'static str>,
    about: &'static str,
}

const ETCD: Component = Component {
    name: "etcd",
    module: "etcd",
    source: "go.etcd.io/etcd/server/v3",
    packages: &["go.etcd.io/etcd/server/v3"],
    binaries: &["etcd"],
    tags: "",
    cgo: false,
    version_variable: None,
    about: "1 min",
};
const CONTAINERD: Component = Component {
    name: "containerd",
    module: "containerd",
    source: "github.com/containerd/containerd/v2",
    packages: &[
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
    ],
    binaries: &["containerd", "containerd-shim-runc-v2", "ctr"],
    tags: "no_btrfs,no_devmapper,no_zfs",
    cgo: false,
    version_variable: Some("github.com/containerd/containerd/v2/version.Version"),
    about: "2 min",
};
/// With seccomp: kubelet gives every sandbox the runtime's default profile, and runc without it starts no pod.
const RUNC: Component = Component {
    name: "runc",
    module: "runc",
    source: "github.com/opencontainers/runc",
    packages: &["github.com/opencontainers/runc"],
    binaries: &["runc"],
    tags: "seccomp",
    cgo: true,
    version_variable: Some("main.version"),
    about: "20 s",
};
const CNI: Component = Component {
    name: "reference CNI plugins",
    module: "cni",
    source: "github.com/containernetworking/plugins",
    packages: &[
        "github.com/containernetworking/plugins/plugins/main/bridge",
        "github.com/containernetworking/plugins/plugins/main/ptp",
        "github.com/containernetworking/plugins/plugins/main/loopback",
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
        "github.com/containernetworking/plugins/plugins/meta/portmap",
    ],
    binaries: &["cni/bridge", "cni/ptp", "cni/loopback", "cni/host-local", "cni/portmap"],
    tags: "",
    cgo: false,
    version_variable: None,
    about: "10 s",
};
const KUBE: Component = Component {
    name: "kube-apiserver, controller-manager, scheduler, kubelet, kubectl",
    module: "k8s",
    source: KUBERNETES,
    packages: &[
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        "k8s.io/kubernetes/cmd/kubelet",
        "k8s.io/kubernetes/cmd/kubectl",
    ],
    binaries: &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"],
    tags: "",
    cgo: true,
    version_variable: None,
    about: "6 min",
};
const AGNHOST: Component = Component {
    name: "agnhost",
    module: "k8s",
    source: KUBERNETES,
    packages: &["k8s.io/kubernetes/test/images/agnhost"],
    binaries: &["agnhost"],
    tags: "",
    cgo: false,
    version_variable: None,
    about: "4 min",
};
const COREDNS: Component = Component {
    name: "coredns",
    module: "coredns",
    source: "github.com/coredns/coredns",
    packages: &["./cmd"],
    binaries: &["coredns"],
    tags: "",
    cgo: false,
    version_variable: None,
    about: "1 min",
};
/// Judges the testbed itself, beside the reference plugins; the product needs none.
pub(crate) const KUBE_PROXY: Component = Component {
    name: "kube-proxy",
    module: "k8s",
    source: KUBERNETES,
    packages: &["k8s.io/kubernetes/cmd/kube-proxy"],
    binaries: &["kube-proxy"],
    tags: "",
    cgo: false,
    version_variable: None,
    about: "1 min",
};

/// What every cluster needs.
pub(crate) const STANDARD: &[Component] = &[ETCD, CONTAINERD, RUNC, CNI, KUBE, AGNHOST, COREDNS];

fn modules() -> PathBuf {
    settings::repository().join("tools/cluster")
}

/// The cache of this checkout's versions: `bin/` and `images/` are below it.
pub(crate) fn cache() -> Result<PathBuf> {
    Ok(settings::cache().join("cluster").join(fingerprint()?))
}

/// Where the binaries are.
pub(crate) fn binaries() -> Result<PathBuf> {
    Ok(cache()?.join("bin"))
}

fn fingerprint() -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(RECIPE);
    let mut files = Vec::new();
    list(&modules(), &mut files)?;
    files.sort();
    for file in files {
        hash.update(file.strip_prefix(modules()).unwrap_or(&file).to_string_lossy().as_bytes());
        hash.update(fs::read(&file).with_context(|| format!("reading {}", file.display()))?);
    }
    let digest = hash.finalize();
    Ok(digest.iter().take(6).fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.extension().is_some_and(|kind| SOURCES.iter().any(|source| kind == *source)) {
            files.push(path);
        }
    }
    Ok(())
}

/// Builds those components whose binaries are not in the cache.
pub(crate) fn build_missing(components: &[Component]) -> Result<()> {
    let bin = binaries()?;
    for component in components {
        if component.binaries.iter().all(|name| bin.join(name).is_file()) {
            continue;
        }
        if settings::find_program("go").is_none() {
            bail!(
                "the cluster's binaries are built with Go, and `go` is not on the PATH: install Go 1.26 or newer (https://go.dev/dl)"
            );
        }
        let version = component.version()?;
        step(&format!("building {} {version} (about {} on 2 idle cores)", component.name, component.about), || {
            component.build(&bin, &version)
        })?;
    }
    Ok(())
}

impl Component {
    /// The version that go.mod pins.
    fn version(&self) -> Result<String> {
        let path = modules().join(self.module).join("go.mod");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        text.lines()
            .map(|line| line.trim().trim_start_matches("require ").split_whitespace())
            .find_map(|mut words| (words.next() == Some(self.source)).then(|| words.next()).flatten())
            .filter(|version| version.starts_with('v'))
            .map(str::to_owned)
            .with_context(|| format!("{} does not pin {}", path.display(), self.source))
    }

    fn linker_flags(&self, version: &str) -> String {
        let mut flags = "-s -w".to_owned();
        if self.source == KUBERNETES {
            // Clients and admission compare these; an unset version reads as v0.0.0.
            let minor = version.split('.').nth(1).unwrap_or("0");
            let variable = "k8s.io/component-base/version";
            for (name, value) in [("gitVersion", version), ("gitMajor", "1"), ("gitMinor", minor)] {
                flags = format!("{flags} -X {variable}.{name}={value}");
            }
        }
        if let Some(variable) = self.version_variable {
            let value = if variable == "main.version" { version.trim_start_matches('v') } else { version };
            flags = format!("{flags} -X {variable}={value}");
        }
        flags
    }

    /// Builds into a directory of its own, then renames: an interrupted build leaves nothing that looks finished, and
    /// the next one takes its place. Setup runs once at a time.
    fn build(&self, bin: &Path, version: &str) -> Result<()> {
        let fresh = bin.with_file_name("fresh");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).with_context(|| format!("removing {}", fresh.display()))?;
        }
        fs::create_dir_all(&fresh)?;
        // Ending in a slash: several binaries, each by its package's name.
        let destination = fresh.join(if let [only] = self.binaries { only } else { "" });
        output(
            program("go")
                .current_dir(modules().join(self.module))
                .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-tags", self.tags, "-ldflags"])
                .arg(self.linker_flags(version))
                .arg("-o")
                .arg(destination)
                .args(self.packages)
                .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
                .env("GOFLAGS", ""),
        )?;
        for name in self.binaries {
            let target = bin.join(name);
            let file = target.file_name().context("a binary has a file name")?;
            fs::create_dir_all(target.parent().unwrap_or(bin))?;
            fs::rename(fresh.join(file), &target).with_context(|| format!("moving {}", target.display()))?;
        }
        fs::remove_dir_all(&fresh)?;
        Ok(())
    }
}
