//! etcd, API server, controller manager and scheduler, in the cluster's `cp` network namespace.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::layout::{Family, NODE_MASK_V4, NODE_MASK_V6, Place};
use super::pki::config_path;
use super::process::Recorded;
use super::state::{Paths, State};
use crate::command::{program, tail};
use crate::progress::wait;

/// The components, in the order of their start.
pub(crate) const COMPONENTS: &[&str] = &["etcd", "apiserver", "controller-manager", "scheduler"];

const ETCD_CLIENT: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

fn bound(ip: IpAddr) -> String {
    format!("--bind-address={ip}")
}

fn etcd(paths: &Paths) -> Vec<String> {
    vec![
        format!("--data-dir={}", paths.root.join("etcd").display()),
        // Nothing here outlives the machine, and fsync is most of etcd's time on a slow disk.
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={ETCD_CLIENT}"),
        format!("--advertise-client-urls={ETCD_CLIENT}"),
        format!("--listen-peer-urls={ETCD_PEER}"),
        format!("--initial-advertise-peer-urls={ETCD_PEER}"),
        format!("--initial-cluster=default={ETCD_PEER}"),
        "--log-level=warn".to_owned(),
    ]
}

fn apiserver(paths: &Paths, state: &State) -> Vec<String> {
    let ip = state.layout.address(Place::ControlPlane);
    let pki = |file: &str| paths.pki().join(file).display().to_string();
    vec![
        format!("--etcd-servers={ETCD_CLIENT}"),
        bound(ip),
        format!("--advertise-address={ip}"),
        "--secure-port=6443".to_owned(),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        format!("--kubelet-client-certificate={}", pki("apiserver-kubelet-client.crt")),
        format!("--kubelet-client-key={}", pki("apiserver-kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP,Hostname".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", pki("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
        format!("--service-cluster-ip-range={}", state.layout.service_ranges()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--requestheader-client-ca-file={}", pki("front-proxy-ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        format!("--proxy-client-cert-file={}", pki("front-proxy-client.crt")),
        format!("--proxy-client-key-file={}", pki("front-proxy-client.key")),
        // Nothing translates service addresses where the API server runs: it dials endpoints.
        "--enable-aggregator-routing=true".to_owned(),
        format!("--audit-policy-file={}", audit_policy(paths).display()),
        format!("--audit-log-path={}", audit_log(paths).display()),
    ]
}

/// What the API server keeps a record of: writes of service accounts that are not Kubernetes' own, which is what an
/// installed product writes.
const AUDIT: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: None, userGroups: [\"system:serviceaccounts:kube-system\"]}
  - level: Metadata
    userGroups: [\"system:serviceaccounts\"]
    verbs: [create, update, patch, delete, deletecollection]
  - {level: None}
";

fn audit_policy(paths: &Paths) -> PathBuf {
    paths.root.join("audit.yaml")
}

/// The record of writes, one JSON object a line.
pub(crate) fn audit_log(paths: &Paths) -> PathBuf {
    paths.log("audit")
}

fn with_config(paths: &Paths, component: &str) -> Vec<String> {
    let config = config_path(paths, component);
    ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
        .iter()
        .map(|flag| format!("--{flag}={}", config.display()))
        .collect()
}

fn controller_manager(paths: &Paths, state: &State) -> Vec<String> {
    let pki = |file: &str| paths.pki().join(file).display().to_string();
    let mut words = with_config(paths, "controller-manager");
    words.extend([
        bound(state.layout.address(Place::ControlPlane)),
        format!("--service-account-private-key-file={}", pki("service-accounts.key")),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        format!("--requestheader-client-ca-file={}", pki("front-proxy-ca.crt")),
        "--use-service-account-credentials".to_owned(),
        "--leader-elect=false".to_owned(),
        "--allocate-node-cidrs".to_owned(),
        format!("--cluster-cidr={}", state.layout.pod_ranges()),
        format!("--service-cluster-ip-range={}", state.layout.service_ranges()),
    ]);
    match state.layout.family {
        Family::V4 => words.push(format!("--node-cidr-mask-size={NODE_MASK_V4}")),
        Family::V6 => words.push(format!("--node-cidr-mask-size={NODE_MASK_V6}")),
        Family::Dual => {
            words.push(format!("--node-cidr-mask-size-ipv4={NODE_MASK_V4}"));
            words.push(format!("--node-cidr-mask-size-ipv6={NODE_MASK_V6}"));
        }
    }
    words
}

fn scheduler(paths: &Paths, state: &State) -> Vec<String> {
    let mut words = with_config(paths, "scheduler");
    words.extend([bound(state.layout.address(Place::ControlPlane)), "--leader-elect=false".to_owned()]);
    words
}

/// Starts one component, in its namespace and control group; it records itself before it becomes the component.
pub(crate) fn start(paths: &Paths, state: &State, component: &str) -> Result<()> {
    let (file, words) = match component {
        "etcd" => ("etcd", etcd(paths)),
        "apiserver" => ("kube-apiserver", apiserver(paths, state)),
        "controller-manager" => ("kube-controller-manager", controller_manager(paths, state)),
        "scheduler" => ("kube-scheduler", scheduler(paths, state)),
        other => bail!("no component {other:?}: choose one of {}", COMPONENTS.join(", ")),
    };
    if component == "apiserver" {
        std::fs::write(audit_policy(paths), AUDIT).context("writing the audit policy")?;
    }
    let binary: PathBuf = state.bin.join(file);
    let mut command = program(paths.xtask());
    command.arg("__component").arg(&state.name).arg(component).arg(&binary).args(words);
    let mut child = command.spawn().with_context(|| format!("starting {component}"))?;
    let pid = child.id();
    wait(&format!("start of {component}"), Duration::from_secs(10), Duration::from_millis(2), || {
        if let Some(status) = child.try_wait()? {
            bail!("{component} ended with {status}; the end of its log:\n{}", log_end(&paths.log(component)));
        }
        let recorded = Recorded::load(&paths.pid(component));
        Ok(recorded.filter(|process| u32::try_from(process.pid()) == Ok(pid)).map(drop))
    })
}

/// An error with the end of its log when a component has died.
pub(crate) fn check(paths: &Paths, component: &str) -> Result<()> {
    if Recorded::load(&paths.pid(component)).is_some_and(Recorded::alive) {
        return Ok(());
    }
    bail!("{component} has ended; the end of its log:\n{}", log_end(&paths.log(component)))
}

fn log_end(path: &Path) -> String {
    tail(&std::fs::read_to_string(path).unwrap_or_default(), 8)
}
