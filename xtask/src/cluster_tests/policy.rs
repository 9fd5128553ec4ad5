//! Policy: each case of `tools/tests/policies.yaml` with what it must allow and what it must drop.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Scenario;
use super::fixture::{ANSWER, Fixture, SOON};
use crate::lab::{Lab, Pod};
use crate::settings;

/// A drop costs all of this: short, since allowed probes on one machine answer in a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(400);

/// Who asks.
#[derive(Clone, Copy, Debug)]
enum From {
    Client1,
    Client2,
    Stranger,
}

/// Who is asked.
#[derive(Clone, Copy, Debug)]
enum To {
    Server1(u16),
    Server2(u16),
    Datagrams2,
    Service,
    /// ICMP echo to the server of node2.
    Echo2,
    Outside,
    Node1,
    Node2,
    ApiServer,
}

use self::From::{Client1, Client2, Stranger};
use self::To::{ApiServer, Datagrams2, Echo2, Node1, Node2, Outside, Server1, Server2, Service};

type Case = (&'static str, &'static [(From, To, bool)]);

/// Name of the case, and what must pass.
const CASES: &[Case] = &[
    (
        "np-default-deny-ingress",
        &[
            (Client1, Server1(8080), false),
            (Client1, Server2(8080), false),
            (Stranger, Server1(8080), false),
            (Client1, Outside, true),
        ],
    ),
    (
        "np-allow-by-pod-label",
        &[
            (Client1, Server1(8080), true),
            (Client2, Server1(8080), true),
            (Client1, Server2(8080), true),
            (Client1, Server1(8443), false),
            (Client1, Echo2, false),
            (Stranger, Server1(8080), false),
            (Stranger, Server2(8080), false),
        ],
    ),
    (
        "np-allow-by-namespace-label",
        &[
            (Stranger, Server1(8080), true),
            (Stranger, Server2(8080), true),
            (Client1, Server1(8080), false),
            (Client1, Server2(8080), false),
        ],
    ),
    (
        "np-labels-forged-by-a-pod",
        &[
            (Client1, Server1(8080), true),
            (Client1, Server2(8080), true),
            (Stranger, Server1(8080), false),
            (Stranger, Server2(8080), false),
        ],
    ),
    (
        "np-named-port",
        &[
            (Client1, Server1(8443), true),
            (Stranger, Server2(8443), true),
            (Client1, Server1(8080), false),
            (Client1, Server2(8080), false),
        ],
    ),
    (
        "np-port-range",
        &[
            (Client1, Server1(8443), true),
            (Client1, Datagrams2, true),
            (Client1, Server1(8080), false),
            (Stranger, Server2(8080), false),
        ],
    ),
    (
        "np-ipblock-means-the-address",
        &[
            (Client1, Server1(8080), true),
            (Client1, Server2(8080), true),
            (Client2, Server1(8080), false),
            (Stranger, Server1(8080), false),
        ],
    ),
    (
        "np-egress-to-backend-of-service",
        &[
            (Client1, Service, true),
            (Client2, Service, true),
            (Client1, Server2(8443), false),
            (Client1, Outside, false),
            (Stranger, Outside, true),
        ],
    ),
    (
        "cnp-service-account",
        &[(Stranger, Server1(8080), true), (Client1, Server1(8080), false), (Client2, Server1(8080), false)],
    ),
    (
        "cnp-deny-wins",
        &[
            (Client1, Server1(8080), false),
            (Client1, Server2(8080), false),
            (Client1, Server1(8443), true),
            (Stranger, Server1(8080), true),
        ],
    ),
    ("cnp-cidr-is-outside-only", &[(Client1, Outside, true), (Client1, Server1(8080), false), (Client1, Node1, false)]),
    ("cnp-world-entity", &[(Client1, Outside, true), (Client1, Server2(8080), false), (Client1, Node1, false)]),
    ("cnp-cluster-entity", &[(Client1, Server2(8080), true), (Client1, Node1, true), (Client1, Outside, false)]),
    (
        "cnp-kube-apiserver-entity",
        &[(Client1, ApiServer, true), (Client1, Server1(8080), false), (Client1, Outside, false)],
    ),
    ("cnp-to-services", &[(Client1, Server1(8080), true), (Client1, Outside, false), (Client1, Node1, false)]),
    (
        "cnp-no-default-deny",
        &[(Client1, Server1(8080), true), (Stranger, Server1(8080), false), (Stranger, Server2(8080), false)],
    ),
    (
        "ccnp-namespace-labels",
        &[(Stranger, Server1(8080), true), (Client1, Server1(8080), false), (Client1, Server2(8080), false)],
    ),
    ("cidr-group", &[(Client1, Outside, true), (Client1, Server1(8080), false)]),
    (
        "np-ipblock-except",
        &[
            (Client1, Server1(8080), false),
            (Client1, Server2(8080), false),
            (Client2, Server1(8080), true),
            (Stranger, Server2(8080), true),
        ],
    ),
    (
        "np-match-expressions",
        &[
            (Client1, Server1(8080), true),
            (Client1, Server2(8080), true),
            (Client2, Server2(8080), false),
            (Stranger, Server1(8080), false),
        ],
    ),
    (
        "cnp-icmp-type",
        &[
            (Client1, Echo2, true),
            (Client2, Echo2, true),
            (Stranger, Echo2, false),
            (Client1, Server2(8080), false),
            (Client1, Datagrams2, false),
        ],
    ),
    ("cnp-cidr-set-except", &[(Client1, Server2(8080), true), (Client1, Outside, false), (Stranger, Outside, true)]),
    ("cidr-group-by-selector", &[(Client1, Outside, true), (Client1, Server1(8080), false)]),
    (
        "cnp-host-and-remote-node-entities",
        &[
            (Client1, Node1, true),
            (Client1, Node2, false),
            (Client2, Node2, true),
            (Client2, Node1, false),
            (Stranger, Node2, true),
            (Stranger, Node1, false),
        ],
    ),
    (
        "cnp-to-nodes",
        &[(Client1, Node2, true), (Client1, Node1, false), (Client2, Node2, true), (Client2, Node1, false)],
    ),
    (
        "cnp-entities-that-are-nobody",
        &[
            (Client1, Server1(8080), false),
            (Client2, Server1(8080), false),
            (Stranger, Server2(8080), false),
            (Client1, Outside, true),
        ],
    ),
    (
        "cnp-port-range-and-protocols",
        &[
            (Client1, Server1(8443), true),
            (Client2, Datagrams2, true),
            (Client1, Server1(8080), false),
            (Stranger, Server1(8443), false),
            (Client1, Echo2, false),
        ],
    ),
    (
        "cnp2-admin-deny-before-allow",
        &[(Client1, Server1(8080), true), (Stranger, Server1(8080), false), (Stranger, Server2(8080), false)],
    ),
    (
        "cnp2-baseline-deny",
        &[(Client1, Server1(8080), true), (Stranger, Server1(8080), false), (Stranger, Server2(8080), false)],
    ),
];

pub(super) fn scenarios() -> Vec<Scenario> {
    CASES.iter().map(scenario).collect()
}

/// The few that every routing mode and family repeats.
pub(super) fn basics() -> Vec<Scenario> {
    let few = ["np-allow-by-pod-label", "np-ipblock-means-the-address", "cnp-deny-wins", "cnp-world-entity"];
    CASES.iter().filter(|(n, _)| few.contains(n)).map(scenario).collect()
}

fn scenario(case: &'static Case) -> Scenario {
    let (name, expected) = *case;
    (format!("policy_{}", name.replace('-', "_")), Box::new(move |lab, fixture| hold(lab, fixture, name, expected)))
}

fn hold(lab: &Lab, f: &Fixture, name: &str, expected: &[(From, To, bool)]) -> Result<()> {
    let yaml = manifest(f, name)?;
    lab.apply(&yaml)?;
    let told = (0..f.families).try_for_each(|family| converge(lab, f, family, expected));
    crate::command::output_with(
        lab.cluster.kubectl_command().args(["delete", "--ignore-not-found", "-f", "-"]),
        &yaml,
    )?;
    told.with_context(|| format!("under {name}"))?;
    // and without the policy all is open again
    let open: Vec<(From, To, bool)> = expected.iter().map(|(a, b, _)| (*a, *b, true)).collect();
    converge(lab, f, 0, &open).context("after the policy was deleted")
}

/// Asks until all answers are as expected, then once more: an allow that flickers is a failure.
fn converge(lab: &Lab, f: &Fixture, family: usize, expected: &[(From, To, bool)]) -> Result<()> {
    let ask = || wrong(lab, f, family, expected, PATIENCE);
    Lab::eventually("verdicts", SOON, ask, Vec::is_empty)?;
    let (open, shut): (Vec<_>, Vec<_>) = expected.iter().partition(|(_, _, wanted)| *wanted);
    let mut again = wrong(lab, f, family, &open, ANSWER)?;
    again.extend(wrong(lab, f, family, &shut, PATIENCE)?);
    if again.is_empty() { Ok(()) } else { bail!("held once, then: {again:?}") }
}

/// The expectations that do not hold now, as words.
fn wrong(
    lab: &Lab,
    f: &Fixture,
    family: usize,
    expected: &[(From, To, bool)],
    patience: Duration,
) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for who in [Client1, Client2, Stranger] {
        let mine: Vec<&(From, To, bool)> = expected
            .iter()
            .filter(|(from, _, _)| std::mem::discriminant(from) == std::mem::discriminant(&who))
            .collect();
        if mine.is_empty() {
            continue;
        }
        let targets: Vec<String> = mine.iter().map(|(_, to, _)| target(f, family, *to)).collect::<Result<_>>()?;
        let outcomes = lab.probe(pod(f, who), &targets, patience)?;
        for ((_, to, wanted), outcome) in mine.into_iter().zip(outcomes) {
            if outcome.passed() != *wanted {
                wrong.push(format!(
                    "{who:?} → {to:?} (family {family}): {outcome:?}, want {}",
                    if *wanted { "yes" } else { "no" }
                ));
            }
        }
    }
    Ok(wrong)
}

fn pod(f: &Fixture, who: From) -> &Pod {
    let [one, two] = &f.client;
    match who {
        Client1 => one,
        Client2 => two,
        Stranger => &f.stranger,
    }
}

fn target(f: &Fixture, family: usize, to: To) -> Result<String> {
    let [one, two] = &f.server;
    match to {
        Server1(port) => one.target("tcp", family, port),
        Server2(port) => two.target("tcp", family, port),
        Datagrams2 => two.target("udp", family, 8081),
        Echo2 => two.target("echo", family, 0),
        Service => Ok("tcp:server.lab.svc.cluster.local:80".into()),
        Outside => f.outside_target(family),
        Node1 => f.node_target(0, family),
        Node2 => f.node_target(1, family),
        ApiServer => Ok(format!("connect:{}:443", f.api_server)),
    }
}

/// The case's part of the file, with the addresses of this cluster.
fn manifest(f: &Fixture, name: &str) -> Result<String> {
    let path = settings::repository().join("tools/tests/policies.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let part = text
        .split("# case: ")
        .find(|part| part.lines().next() == Some(name))
        .with_context(|| format!("{} has no case {name}", path.display()))?;
    let body = part.split_once('\n').map(|(_, b)| b).unwrap_or_default();
    let client = f.client.first().context("a client")?;
    let host = |a: &String| format!("{a}/{}", if a.contains(':') { 128 } else { 32 });
    let blocks = client.addresses.iter().map(|a| format!("{{ipBlock: {{cidr: \"{}\"}}}}", host(a)));
    let outside = f.outside.iter().map(|a| format!("\"{}\"", host(a)));
    let all = client.addresses.iter().map(|a| if a.contains(':') { "{cidr: \"::/0\"}" } else { "{cidr: 0.0.0.0/0}" });
    let list = |items: Vec<String>| items.join(", ");
    let any = |a: &String| if a.contains(':') { "\"::/0\"" } else { "0.0.0.0/0" };
    let but = |a: &String| format!("{{cidr: {}, except: [\"{}\"]}}", any(a), host(a));
    let all_but_client = client.addresses.iter().map(|a| format!("{{ipBlock: {}}}", but(a)));
    let all_but_outside = f.outside.iter().map(but);
    Ok(body
        .replace("${CLIENT_1}", &list(blocks.collect()))
        .replace("${ALL_BUT_CLIENT_1}", &list(all_but_client.collect()))
        .replace("${ALL_BUT_OUTSIDE}", &list(all_but_outside.collect()))
        .replace("${OUTSIDE}", &list(outside.collect()))
        .replace("${ALL}", &list(all.map(str::to_owned).collect())))
}
