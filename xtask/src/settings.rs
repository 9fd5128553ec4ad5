//! Where things are, and the few environment variables that move them. Nothing else in this crate reads the environment.

use std::path::{Path, PathBuf};

/// A variable that is set and not empty.
#[expect(clippy::disallowed_methods, reason = "this is the crate's one place that reads the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The repository's root directory.
pub(crate) fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The machine-wide cache of tools and cluster binaries, shared by all checkouts: `AXONEME_CACHE`, else `~/.cache/axoneme`.
pub(crate) fn cache() -> PathBuf {
    variable("AXONEME_CACHE").map_or_else(|| home().join(".cache/axoneme"), PathBuf::from)
}

/// State of the running clusters, one directory each: `AXONEME_CLUSTERS`, else `/var/lib/axoneme-cluster`.
pub(crate) fn clusters() -> PathBuf {
    variable("AXONEME_CLUSTERS").map_or_else(|| PathBuf::from("/var/lib/axoneme-cluster"), PathBuf::from)
}

/// Cargo's build directory.
pub(crate) fn target() -> PathBuf {
    variable("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// The cargo that runs this command, so that a toolchain override carries over to what it starts.
pub(crate) fn cargo() -> PathBuf {
    variable("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

fn home() -> PathBuf {
    variable("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from)
}

/// The search path for programs, with the directories that hold system tools whatever the caller's path is.
pub(crate) fn search_path() -> String {
    let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    variable("PATH").map_or_else(|| system.to_owned(), |own| format!("{own}:{system}"))
}

/// The full path of a program on [`search_path`].
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    search_path().split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// cargo's own directory, whose path must not appear in what ships.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    variable("CARGO_HOME").map(PathBuf::from).or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cargo")))
}

/// A directory with binaries that were built elsewhere, to be packed into images as they are: `AXONEME_BINARIES`.
pub(crate) fn binaries() -> Option<PathBuf> {
    variable("AXONEME_BINARIES").map(PathBuf::from)
}

/// A Hubble client that is there already: `AXONEME_HUBBLE_CLIENT`.
pub(crate) fn hubble_client() -> Option<PathBuf> {
    variable("AXONEME_HUBBLE_CLIENT").map(PathBuf::from)
}

/// Whether commands take what is installed for all that they need: `AXONEME_SETUP=none`. For systems other than Debian 12.
pub(crate) fn set_up_already() -> bool {
    variable("AXONEME_SETUP").is_some_and(|value| value == "none")
}

/// How many times as long as usual to wait for what a cluster does: `AXONEME_PATIENCE`, else once. For emulated and for
/// busy machines.
pub(crate) fn patience() -> u32 {
    variable("AXONEME_PATIENCE").and_then(|times| times.parse().ok()).unwrap_or(1).max(1)
}
