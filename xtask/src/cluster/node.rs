//! A node from outside: its directory, its configuration files, and the start of its first process.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::layout::{Layout, Place};
use super::state::{Paths, State};
use super::{cgroup, pki, runc};
use crate::command::{output, program};
use crate::setup::images::PAUSE;

/// A file in the node's directory whose presence lets kubelet start: before the API server answers it would back off.
pub(crate) const KUBELET_GO: &str = "kubelet.go";

/// Manifests of pods that kubelet runs without an API server, as kubeadm places them.
const STATIC_PODS: &str = "/etc/kubernetes/manifests";

/// Writes all files that the node's first process and its services read.
pub(crate) fn prepare(paths: &Paths, state: &State, name: &str, number: u8) -> Result<()> {
    let dir = paths.node(name);
    for sub in ["log", "etc", "root"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    cgroup::create(&state.group().join(name))?;
    let layout = state.layout;
    let dns = layout.service_address(10);
    let own: Vec<String> = layout.addresses(Place::Node(number)).iter().map(|ip| format!("{ip} {name}\n")).collect();
    write(&dir, "etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n{}", own.concat()))?;
    write(&dir, "etc/resolv.conf", &format!("nameserver {dns}\n"))?;
    write(&dir, "etc/containerd.toml", &containerd_config(&runc_path(paths, state)?))?;
    write(&dir, "etc/kubelet.yaml", &kubelet_config(paths, &dir, layout, name, number))?;
    // containerd brings up a pod's loopback by this plugin; a distribution's kubelet package installs it
    let plugins = dir.join("root/opt/cni/bin");
    fs::create_dir_all(&plugins)?;
    // where kubelet looks for static pods: it watches only what is there when it starts
    fs::create_dir_all(dir.join("root").join(STATIC_PODS.trim_start_matches('/')))?;
    fs::copy(state.bin.join("cni/loopback"), plugins.join("loopback")).context("copying the loopback plugin")?;
    if state.kube_proxy {
        let config = pki::config_path(paths, "kube-proxy");
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
             clusterCIDR: {}\nclientConnection:\n  kubeconfig: {}\nconntrack:\n  maxPerCore: 0\n  min: 0\n",
            layout.pod_ranges(),
            config.display()
        );
        write(&dir, "etc/kube-proxy.yaml", &text)?;
    }
    Ok(())
}

fn write(dir: &Path, file: &str, text: &str) -> Result<()> {
    fs::write(dir.join(file), text).with_context(|| format!("writing {}", dir.join(file).display()))
}

/// runc itself, or its stand-in where this machine lacks capabilities that pods may ask for.
fn runc_path(paths: &Paths, state: &State) -> Result<String> {
    let real = state.bin.join("runc");
    if runc::lacking()?.is_empty() {
        return Ok(real.display().to_string());
    }
    let dir = paths.root.join("bin");
    for (name, target) in [("runc", paths.xtask()), (runc::REAL, real)] {
        // The nodes of a cluster are made side by side: another one may have been first.
        match symlink(&target, dir.join(name)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("linking {name}"));
            }
            _ => (),
        }
    }
    Ok(dir.join("runc").display().to_string())
}

fn containerd_config(runc: &str) -> String {
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE nothing may lower its OOM score.
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        SystemdCgroup = false
"#
    )
}

fn kubelet_config(paths: &Paths, dir: &Path, layout: Layout, name: &str, number: u8) -> String {
    let pki = paths.pki();
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
cgroupRoot: /
oomScoreAdj: 0
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: "{pki}/ca.crt"}}}}
authorization: {{mode: Webhook}}
tlsCertFile: "{pki}/{name}-server.crt"
tlsPrivateKeyFile: "{pki}/{name}-server.key"
address: "{address}"
clusterDNS: ["{dns}"]
clusterDomain: cluster.local
resolvConf: "{dir}/etc/resolv.conf"
failSwapOn: false
evictionHard: {{memory.available: 1Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}}
imageGCHighThresholdPercent: 100
serializeImagePulls: false
maxPods: 200
nodeStatusUpdateFrequency: 5s
staticPodPath: {STATIC_PODS}
fileCheckFrequency: 2s
"#,
        pki = pki.display(),
        dir = dir.display(),
        address = layout.address(Place::Node(number)),
        dns = layout.service_address(10),
    )
}

/// The node's services and their commands, in the order of their start.
pub(crate) fn services(paths: &Paths, state: &State, name: &str) -> Vec<(&'static str, Vec<String>)> {
    let etc = paths.node(name).join("etc");
    let flag = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let bin = |name: &str| state.bin.join(name).display().to_string();
    let number = state.nodes().into_iter().find(|(node, _)| node == name).map_or(0, |(_, number)| number);
    let ips: Vec<String> = state.layout.addresses(Place::Node(number)).iter().map(ToString::to_string).collect();
    let mut all = vec![
        ("containerd", vec![bin("containerd"), flag("config", &etc.join("containerd.toml"))]),
        (
            "kubelet",
            vec![
                bin("kubelet"),
                flag("config", &etc.join("kubelet.yaml")),
                flag("kubeconfig", &pki::config_path(paths, name)),
                format!("--hostname-override={name}"),
                format!("--node-ip={}", ips.join(",")),
                "--root-dir=/var/lib/kubelet".to_owned(),
                "--v=2".to_owned(),
            ],
        ),
    ];
    if state.kube_proxy {
        let config = flag("config", &etc.join("kube-proxy.yaml"));
        all.push(("kube-proxy", vec![bin("kube-proxy"), config, format!("--hostname-override={name}")]));
    }
    all
}

/// Starts the node's first process, and with it containerd.
pub(crate) fn start(paths: &Paths, state: &State, name: &str) -> Result<()> {
    output(program(paths.xtask()).args(["__node", &state.name, name])).map(drop)
}

/// Lets the node's kubelet start.
pub(crate) fn let_kubelet_start(paths: &Paths, name: &str) -> Result<()> {
    write(&paths.node(name), KUBELET_GO, "")
}
