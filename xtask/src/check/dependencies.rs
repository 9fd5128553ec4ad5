//! Arrows point down only. The table says for each package which of the workspace's packages it may use, and for some
//! outside packages who may use them.

use crate::workspace::{Kind, Package};

/// May use any package that is not a program.
const ANY: &[&str] = &["*"];

/// Package, and what its code may use of the workspace.
const LAYERS: &[(&str, &[&str])] = &[
    ("axoneme-model", &[]),
    ("axoneme-abi", &[]),
    ("axoneme-table", &[]),
    ("axoneme-crds", &[]),
    ("axoneme-bpf-object", &[]),
    ("axoneme-runtime", &[]),
    ("axoneme-stages", &["axoneme-abi"]),
    ("axoneme-compile", &["axoneme-model"]),
    ("axoneme-intake", &["axoneme-model", "axoneme-crds"]),
    ("axoneme-kernel", &["axoneme-abi", "axoneme-bpf-object", "axoneme-table"]),
    ("axoneme-flow", &["axoneme-abi", "axoneme-model"]),
    ("axoneme-wire", &["axoneme-model", "axoneme-flow"]),
    ("axoneme-hubble", &["axoneme-model", "axoneme-flow", "axoneme-runtime"]),
    ("axoneme-preview", &["axoneme-model", "axoneme-compile"]),
    ("axoneme-views", &["axoneme-model"]),
    ("axoneme-webhooks", &["axoneme-model", "axoneme-crds", "axoneme-intake", "axoneme-compile"]),
    ("axoneme-testkit", ANY),
    ("axoneme-cni", &[]),
    ("axoneme-cli", ANY),
    ("axoneme-operator", ANY),
    // Standalone mode runs the operator's logic in the agent's process; agent and plugin share the plugin's protocol.
    ("axoneme-node-agent", &["*", "axoneme-operator", "axoneme-cni"]),
    ("axoneme-xtask", ANY),
    // Plays operator and agents as they are, so it may use what they are made of.
    ("axoneme-simulation", &["*", "axoneme-operator", "axoneme-node-agent", "axoneme-cni"]),
];

/// Programs: nothing depends on them, unless its row names them.
const PROGRAMS: &[&str] = &["axoneme-cni", "axoneme-cli", "axoneme-operator", "axoneme-node-agent", "axoneme-xtask"];
/// Never part of what ships.
const TEST_ONLY: &str = "axoneme-testkit";

/// Outside packages that only these packages' code may name.
const RESERVED: &[(&str, &[&str])] = &[
    // `abi` implements aya's marker trait for its keys and values, as an option.
    ("aya", &["axoneme-kernel", "axoneme-abi"]),
    ("rtnetlink", &["axoneme-kernel"]),
    ("nlink", &["axoneme-kernel"]),
    ("netlink-sys", &["axoneme-kernel"]),
    ("netlink-packet-core", &["axoneme-kernel"]),
    ("netlink-packet-route", &["axoneme-kernel"]),
    ("wireguard-control", &["axoneme-kernel"]),
    ("prost", &["axoneme-wire", "axoneme-hubble"]),
    ("tonic-prost", &["axoneme-wire", "axoneme-hubble"]),
    (
        "anyhow",
        &["axoneme-cli", "axoneme-operator", "axoneme-node-agent", "axoneme-xtask", "axoneme-testkit", "axoneme-cni"],
    ),
];

/// Packages without IO, and the outside packages that would bring it.
const PURE: &[&str] =
    &["axoneme-model", "axoneme-compile", "axoneme-preview", "axoneme-stages", "axoneme-abi", "axoneme-table"];
const IO: &[&str] = &["tokio", "kube", "hyper", "tonic", "nix", "libc", "rand", "notify"];

/// Every arrow that points the wrong way, as a sentence.
pub(crate) fn violations(packages: &[Package]) -> Vec<String> {
    let own: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    packages.iter().flat_map(|package| of_package(package, &own)).collect()
}

fn of_package(package: &Package, own: &[&str]) -> Vec<String> {
    let name = package.name.as_str();
    let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == name) else {
        return vec![format!(
            "{name}: no rule says what it may use: add it to LAYERS in xtask/src/check/dependencies.rs"
        )];
    };
    let mut found = Vec::new();
    for dependency in package.dependencies.iter().filter(|dependency| dependency.kind != Some(Kind::Dev)) {
        let other = dependency.name.as_str();
        if own.contains(&other) {
            let shown = if other == TEST_ONLY && name != TEST_ONLY {
                Some("it is for tests: a dev-dependency")
            } else {
                forbidden(other, allowed)
            };
            found.extend(shown.map(|why| format!("{name} may not use {other}: {why}")));
            continue;
        }
        // A build script is not the package's code.
        if dependency.kind == Some(Kind::Build) {
            continue;
        }
        if RESERVED.iter().any(|(reserved, users)| *reserved == other && !users.contains(&name)) {
            found.push(format!("{name} may not use {other}: only a crate that hides it does"));
        }
        if PURE.contains(&name) && IO.contains(&other) && !dependency.optional {
            found.push(format!("{name} may not use {other}: it does no IO"));
        }
    }
    found
}

fn forbidden(other: &str, allowed: &[&str]) -> Option<&'static str> {
    if allowed.contains(&other) {
        return None;
    }
    match (allowed.contains(&"*"), PROGRAMS.contains(&other)) {
        (true, false) => None,
        (true, true) => Some("it is a program"),
        (false, _) => Some("the arrow points up; see the table of crates in ARCHITECTURE.md"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, uses: &[(&str, Option<Kind>)]) -> Package {
        let dependencies = uses
            .iter()
            .map(|(name, kind)| Dependency { name: (*name).to_owned(), kind: *kind, optional: false })
            .collect();
        Package { name: name.to_owned(), manifest_path: "Cargo.toml".into(), dependencies, targets: Vec::new() }
    }

    #[test]
    fn upward_arrows_test_crates_and_reserved_names_are_found() {
        let world = [
            package("axoneme-model", &[("axoneme-table", None), ("tokio", None)]),
            package("axoneme-table", &[]),
            package("axoneme-operator", &[("axoneme-testkit", None), ("aya", None), ("axoneme-model", None)]),
            package("axoneme-testkit", &[("axoneme-operator", None)]),
            package("axoneme-new", &[]),
        ];
        let found = violations(&world);
        for part in [
            "axoneme-model may not use axoneme-table",
            "axoneme-model may not use tokio",
            "axoneme-operator may not use axoneme-testkit",
            "axoneme-operator may not use aya",
            "axoneme-testkit may not use axoneme-operator",
            "axoneme-new: no rule",
        ] {
            assert!(found.iter().any(|line| line.starts_with(part)), "{part} is not in {found:#?}");
        }
        assert_eq!(found.len(), 6, "{found:#?}");
    }

    #[test]
    fn tests_may_use_anything() {
        let world =
            [package("axoneme-model", &[("axoneme-testkit", Some(Kind::Dev))]), package("axoneme-testkit", &[])];
        assert!(violations(&world).is_empty());
    }
}
