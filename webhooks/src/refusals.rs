//! Objects that can be read and must not be stored: a policy that no node's map holds whatever the cluster is, and a
//! change of pools or settings that takes addresses away that pods use.

use std::ops::ControlFlow;

use axoneme_compile::needs;
use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::{FieldError, Options, Parsed, PoolFamily, Reason, parse_as};
use axoneme_model::{Cidr, Kind, Policy, cidr::contains, rows::TABLE_ENTRIES};
use serde_json::Value;

use crate::{request::Request, view::View};

/// Annotation that lets addresses in use be taken out of a pool, with the value `true`.
pub const ALLOW_RELEASE: &str = "axoneme.io/allow-release";

/// Entries of rules that a table has: those that nodes hold, but for the defaults of both directions.
const LIMIT: usize = TABLE_ENTRIES - 2;
/// Peers times ports up to which a policy's table is made to see how large it is: some ten milliseconds.
const JUDGED: usize = 400_000;
/// Pods that a message names.
const NAMED: usize = 3;

/// What of a good object is refused. `stored`: what is to be replaced, as it was.
pub(crate) fn of(parsed: &Parsed, stored: &Value, request: &Request, view: &dyn View) -> Vec<FieldError> {
    match parsed {
        Parsed::Policy(policy) => too_large(policy).into_iter().collect(),
        Parsed::PodIpPool(_) | Parsed::Config(_) if !is_let(request) => taken(parsed, stored, view),
        _ => Vec::new(),
    }
}

fn is_let(request: &Request) -> bool {
    let annotations = request.object.pointer("/metadata/annotations");
    annotations.and_then(|a| a.get(ALLOW_RELEASE)).is_some_and(|v| v == "true")
}

/// A policy whose own prefixes and ports alone are more than a table holds. What labels select is not counted: that is
/// as many as there are pods.
fn too_large(policy: &Policy) -> Option<FieldError> {
    let most = needs::at_most(policy);
    if !(LIMIT..=JUDGED).contains(&most) {
        return None;
    }
    let entries = needs::entries(policy);
    (entries > LIMIT).then(|| FieldError {
        path: "spec".to_owned(),
        value: Some(format!("{entries} entries of a policy table")),
        message: format!(
            "nodes hold {LIMIT}: let its rules name fewer prefixes or ports, or write wider prefixes and ranges"
        ),
        reason: Reason::Invalid,
    })
}

/// Whether the policy is more than is looked at, so that nobody said that it fits.
pub(crate) fn is_unjudged(policy: &Policy) -> Option<String> {
    let most = needs::at_most(policy);
    (most > JUDGED).then(|| {
        format!(
            "spec: its peers and ports make up to {most} entries of a policy table, too many to be tried here; nodes hold \
             {LIMIT}, see condition Enforced"
        )
    })
}

/// Addresses of pods that were of the pool and are not any more.
fn taken(parsed: &Parsed, stored: &Value, view: &dyn View) -> Vec<FieldError> {
    if !view.is_complete() {
        return Vec::new();
    }
    let kind = if matches!(parsed, Parsed::Config(_)) { Kind::AxonemeConfig } else { Kind::CiliumPodIPPool };
    let Ok(before) = parse_as(kind, stored, &Options::default()) else { return Vec::new() };
    let (Some((_, before)), Some((path, after))) = (prefixes(&before), prefixes(parsed)) else { return Vec::new() };
    let gone = |c: &Cidr| !after.iter().any(|a| contains(*a, *c));
    let shrunk: Vec<Cidr> = before.iter().copied().filter(gone).collect();
    if shrunk.is_empty() {
        return Vec::new();
    }
    let (mut count, mut named) = (0usize, Vec::new());
    view.pods(None, &mut |pod, _| {
        let is_taken =
            |a: &&std::net::IpAddr| shrunk.iter().any(|c| c.contains(**a)) && !after.iter().any(|c| c.contains(**a));
        for address in pod.addresses.iter().filter(is_taken) {
            count += 1;
            if named.len() < NAMED {
                named.push(format!("{address} of {}/{}", pod.namespace, pod.name));
            }
        }
        ControlFlow::Continue(())
    });
    if count == 0 {
        return Vec::new();
    }
    let more = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
    let words: Vec<String> = after.iter().map(ToString::to_string).collect();
    let message = format!(
        "takes addresses away that pods use: {}{more}. Move these pods first, or say that it is meant by annotation \
         {ALLOW_RELEASE}: \"true\"",
        named.join(", ")
    );
    vec![FieldError { path: path.into(), value: Some(words.join(", ")), message, reason: Reason::Invalid }]
}

/// The prefixes that pods get addresses from, and the field that says so. None: by another object.
fn prefixes(parsed: &Parsed) -> Option<(&'static str, Vec<Cidr>)> {
    let all = |families: [&Option<PoolFamily>; 2]| {
        families.into_iter().flatten().flat_map(|f| f.cidrs.iter().copied()).collect()
    };
    match parsed {
        Parsed::PodIpPool(pool) => Some(("spec", all([&pool.ipv4, &pool.ipv6]))),
        Parsed::Config(settings) if matches!(settings.ipam.mode, IpamMode::ClusterPool) => {
            Some(("spec.ipam.clusterPool", all([&settings.ipam.ipv4, &settings.ipam.ipv6])))
        }
        _ => None,
    }
}
