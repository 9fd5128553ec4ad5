//! The binary on manifests, without an agent.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests fail as tests do")]

mod golden;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use golden::golden;

const SHOP: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: blue}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {containers: [{name: api, image: api, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other, namespace: shop}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: http}]
";

const DENY: &str = r"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: no-world, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  enableDefaultDeny: {egress: false}
  log: {value: 'PCI 4.1'}
  egressDeny:
  - toCIDR: [203.0.113.0/24]
";

/// Policies that decide nothing, or less than they seem to.
const IDLE: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: ghost, namespace: shop}
spec: {podSelector: {matchLabels: {app: ghost}}, ingress: [{from: [{podSelector: {matchLabels: {app: gone}}}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: half, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: api}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}, {matchLabels: {app: wbe}}]
    toPorts: [{ports: [{port: '9090', protocol: TCP}]}]
  - fromEndpoints: [{matchLabels: {app: gone}}]
  - fromEntities: [world]
  - fromEndpoints: [{matchLabels: {'reserved:host': ''}}]
  egress:
  - toCIDRSet: [{cidrGroupRef: nowhere}, {cidr: 192.0.2.0/24}]
  - toServices: [{k8sService: {serviceName: db, namespace: shop}}]
";

const BROKEN: &str = r"
# a list, a typing error, a broken document, an unsupported field
apiVersion: v1
kind: List
items:
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: typo, namespace: shop}
  spec: {podSelector: {}, ingress: [{ports: [{port: 99999}], form: []}]}
---
a: [1
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: http, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec: {podSelector: {}}
";

fn shown(dir: &Path, args: &[&str], input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_axoneme"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // a command that does not read leaves the pipe broken
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let out = child.wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let stderr = if stderr.is_empty() { String::new() } else { format!("--- stderr\n{stderr}") };
    format!("$ axoneme {}\n{stdout}{stderr}--- exit {}\n\n", args.join(" "), out.status.code().unwrap())
}

fn all_shown(commands: &[&[&str]], input: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("all/more")).unwrap();
    fs::create_dir_all(dir.path().join("empty/.git")).unwrap();
    for (name, text) in [
        ("shop.yaml", SHOP),
        ("deny.yml", DENY),
        ("idle.yaml", IDLE),
        ("all/shop.yaml", SHOP),
        ("all/more/broken.yaml", BROKEN),
        ("all/notes.txt", "no manifest"),
        ("empty/.git/hidden.yaml", SHOP),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    commands.iter().map(|c| shown(dir.path(), c, input)).collect()
}

#[test]
fn lint_tells_every_error_by_object_and_field() {
    golden(
        "lint",
        &all_shown(
            &[
                &["lint", "-f", "shop.yaml", "deny.yml"],
                &["lint", "-f", "all"],
                &["lint", "-f", "all/more/broken.yaml", "-o", "yaml"],
                &["lint", "-f", "-"],
                &["lint", "-f", "none.yaml"],
                &["lint", "-f", "empty"],
                &["lint"],
            ],
            DENY,
        ),
    );
}

#[test]
fn explain_names_the_rules_that_decide() {
    let f = ["-f", "shop.yaml", "deny.yml"];
    let ask =
        |args: &[&'static str]| -> Vec<&'static str> { ["explain"].iter().chain(args).chain(&f).copied().collect() };
    let commands = [
        ask(&["shop/web", "shop/api", "8080"]),
        ask(&["shop/web", "shop/api", "9090"]),
        ask(&["shop/api", "shop/web", "53/udp", "-o", "json"]),
        ask(&["shop/web", "203.0.113.9", "443"]),
        ask(&["203.0.113.9", "198.51.100.1"]),
        ask(&["shop/web", "fd00::1", "80"]),
        ask(&["203.0.113.9", "fd00::1", "80"]),
        ask(&["web", "shop/api", "http/tcp"]),
        ask(&["shop/web", "shop/api", "80/http"]),
        vec!["explain", "shop/web", "shop/api", "8080", "-f", "all"],
    ];
    let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
    golden("explain", &all_shown(&commands, ""));
}

#[test]
fn policy_of_manifests_says_who_can_and_what_is_covered() {
    let commands: [&[&str]; 7] = [
        &["policy", "who-can", "shop/api", "-f", "shop.yaml", "deny.yml"],
        &["policy", "who-can", "shop/nobody", "-f", "shop.yaml"],
        &["policy", "coverage", "-f", "shop.yaml", "deny.yml"],
        &["policy", "coverage", "-f", "shop.yaml", "deny.yml", "-o", "json"],
        &["policy", "coverage", "-f", "all"],
        &["policy", "coverage", "-f", "shop.yaml", "idle.yaml"],
        &["policy", "coverage", "-f", "shop.yaml", "idle.yaml", "-o", "yaml"],
    ];
    golden("policy", &all_shown(&commands, ""));
}

/// Opens the API to everybody on one more port, and closes what was open.
const CHANGE: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - ports: [{port: 9090}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web-out, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress: [{toCIDR: [192.0.2.0/24]}]
---
apiVersion: v1
kind: Pod
metadata: {name: job, namespace: shop, labels: {app: job}}
spec: {containers: [{name: job, image: job}]}
";

#[test]
fn simulate_says_who_gets_and_who_loses_what() {
    let commands: [&[&str]; 8] = [
        &["simulate", "-f", "-", "--manifests", "shop.yaml"],
        &["simulate", "-f", "-", "-m", "shop.yaml", "deny.yml", "-o", "json"],
        &["simulate", "-f", "deny.yml", "-m", "shop.yaml", "-o", "yaml"],
        &["simulate", "-f", "deny.yml", "-m", "shop.yaml", "deny.yml"],
        &["simulate", "--delete", "-f", "deny.yml", "idle.yaml", "-m", "shop.yaml", "deny.yml"],
        &["simulate", "-f", "all/more/broken.yaml", "-m", "shop.yaml"],
        &["simulate", "-f", "all/notes.txt", "-m", "shop.yaml"],
        &["simulate", "-f", "deny.yml"],
    ];
    golden("simulate", &all_shown(&commands, CHANGE));
}
