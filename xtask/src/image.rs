//! `cargo xtask image`: the product's images as OCI archives in `target/images`, without a container tool.
//!
//! Binaries are linked statically, built with path prefixes mapped away, and packed with time zero, so the same source
//! gives the same digest wherever the checkout lies.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::show;
use crate::oci::{self, ImageSpec, Rootfs};
use crate::progress::{say, step};
use crate::settings;

/// Rust target whose standard library can be linked statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Registry path of all images; nothing is ever pulled from it by the development overlay.
pub(crate) const PREFIX: &str = "ghcr.io/axoneme";
/// Tag of images built from the checkout.
pub(crate) const TAG: &str = "dev";

/// One image: its name, the cargo packages whose binaries it holds, and where they go. The first is the entry point.
struct Image {
    name: &'static str,
    binaries: &'static [(&'static str, &'static str, &'static str)],
}

/// (package, binary, place)
const IMAGES: &[Image] = &[
    Image { name: "operator", binaries: &[("axoneme-operator", "axoneme-operator", "/usr/bin/axoneme-operator")] },
    Image {
        name: "agent",
        binaries: &[
            ("axoneme-node-agent", "axoneme-agent", "/usr/bin/axoneme-agent"),
            ("axoneme-cni", "axoneme-cni", "/usr/bin/axoneme-cni"),
            ("axoneme-cli", "axoneme", "/usr/bin/axoneme"),
        ],
    },
    Image { name: "workload", binaries: &[("axoneme-testkit", "axoneme-workload", "/usr/bin/axoneme-workload")] },
];

/// Full name of an image.
pub(crate) fn reference(name: &str) -> String {
    format!("{PREFIX}/{name}:{TAG}")
}

/// Directory of the static binaries.
fn binary_dir() -> PathBuf {
    settings::binaries().unwrap_or_else(built_dir)
}

fn built_dir() -> PathBuf {
    settings::target().join(TARGET).join("image")
}

/// Path of one static binary after [`build`].
pub(crate) fn binary(name: &str) -> PathBuf {
    binary_dir().join(name)
}

/// Builds all binaries statically, or takes those that were built elsewhere.
pub(crate) fn build_binaries() -> Result<()> {
    if let Some(dir) = settings::binaries() {
        say(format_args!("  ok binaries as they are in {}", dir.display()));
        return Ok(());
    }
    let mut cargo = cargo("build");
    for (package, binary, _) in IMAGES.iter().flat_map(|i| i.binaries) {
        cargo.args(["--package", package, "--bin", binary]);
    }
    step("static binaries (operator, agent, cni, cli, workload)", || show(&mut cargo))
}

/// cargo with the profile, target and flags of the images: whatever is built with it shares their compilation.
pub(crate) fn cargo(task: &str) -> Command {
    let root = settings::repository();
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    let mut of_c = Vec::new();
    for (from, to) in remapped(&root) {
        flags.push(format!("--remap-path-prefix={from}={to}"));
        of_c.push(format!("-ffile-prefix-map={from}={to}"));
    }
    let mut cargo = Command::new(settings::cargo());
    cargo.current_dir(&root).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env("CFLAGS", of_c.join(" "));
    cargo.args([task, "--quiet", "--locked", "--profile", "image", "--target", TARGET]);
    cargo
}

/// Path prefixes that must not reach the binaries.
fn remapped(root: &Path) -> Vec<(String, String)> {
    let mut pairs = vec![(root.display().to_string(), "/src".to_owned())];
    if let Some(home) = settings::cargo_home() {
        pairs.push((home.display().to_string(), "/cargo".to_owned()));
    }
    pairs
}

/// A binary that tells where it was built is another one on each machine.
fn without_paths() -> Result<()> {
    let paths = remapped(&settings::repository());
    for (_, name, _) in IMAGES.iter().flat_map(|i| i.binaries) {
        let bytes = std::fs::read(binary(name)).with_context(|| format!("reading {name}"))?;
        for (path, _) in &paths {
            let found = bytes.windows(path.len()).position(|w| w == path.as_bytes());
            if let Some(text) = found.and_then(|at| bytes.get(at..at + 120)) {
                bail!("{name} names a place of this machine: {}", String::from_utf8_lossy(text));
            }
        }
    }
    Ok(())
}

/// Builds the binaries and writes `target/images/*.tar`.
///
/// # Errors
/// When a build or a write fails.
pub(crate) fn build() -> Result<Vec<PathBuf>> {
    build_binaries()?;
    if settings::binaries().is_none() {
        without_paths()?;
    }
    let out = settings::target().join("images");
    let mut archives = Vec::new();
    for image in IMAGES {
        let archive = out.join(format!("{}.tar", image.name));
        oci::write(&spec(image)?, &archive)?;
        let kib = std::fs::metadata(&archive)?.len() / 1024;
        say(format_args!("  ok {} {kib} KiB  {}", reference(image.name), archive.display()));
        archives.push(archive);
    }
    Ok(archives)
}

fn spec(image: &Image) -> Result<ImageSpec> {
    let (_, _, entry) = image.binaries.first().context("an image has a program")?;
    let mut root = Rootfs::new();
    root.dir("/tmp", 0o1777).dir("/etc", 0o755).dir("/run", 0o755).dir("/var/lib", 0o755);
    // names that need no resolver beyond files and DNS
    root.text("/etc/nsswitch.conf", "hosts: files dns\n", 0o644);
    root.text("/etc/passwd", "root:x:0:0:root:/:/\n", 0o644).text("/etc/group", "root:x:0:\n", 0o644);
    for (_, name, place) in image.binaries {
        root.file(place, binary(name), 0o755);
    }
    Ok(ImageSpec::new(&reference(image.name), entry, root))
}
