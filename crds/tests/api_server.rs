//! A real kube-apiserver takes the generated definitions, the examples, and refuses what `refused/` has.
//!
//! Starts etcd and kube-apiserver on loopback, with data in a temporary folder, and ends them again.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "helpers of tests fail the test")]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use axoneme_crds::{AxonemeConfig, all_crds, parse};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(90);

/// A control plane of two processes, which die with it.
struct ApiServer {
    programs: PathBuf,
    folder: tempfile::TempDir,
    processes: Vec<Child>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl ApiServer {
    fn start() -> Self {
        let programs = std::env::var_os("AXONEME_CLUSTER_BIN").expect(
            "AXONEME_CLUSTER_BIN names a folder with etcd, kube-apiserver and kubectl (cargo xtask setup makes it)",
        );
        let programs = PathBuf::from(programs);
        for program in ["etcd", "kube-apiserver", "kubectl"] {
            assert!(programs.join(program).is_file(), "{} has no {program}", programs.display());
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut server = Self { programs, folder, processes: Vec::new() };
        let [client, peer, secure] = free_ports();
        server.write("tokens.csv", "token,admin,1,system:masters\n");
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        server.write("sa.key", &key.serialize_pem());
        server.write("sa.pub", &key.public_key_pem());
        server.write("kubeconfig", &kubeconfig(secure));
        server.spawn("etcd", &etcd_flags(client, peer));
        server.spawn("kube-apiserver", &api_server_flags(client, secure));
        server.wait_ready();
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the temporary folder is writable");
    }

    fn spawn(&mut self, program: &str, flags: &[String]) {
        let log = fs::File::create(self.path(&format!("{program}.log"))).expect("the temporary folder is writable");
        let child = Command::new(self.programs.join(program))
            .args(flags)
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        self.processes.push(child);
    }

    fn wait_ready(&mut self) {
        let started = Instant::now();
        while !self.kubectl(&["get", "--raw", "/readyz"]).status.success() {
            let ended =
                self.processes.iter_mut().any(|process| process.try_wait().is_ok_and(|status| status.is_some()));
            if ended || started.elapsed() > DEADLINE {
                let log = |program: &str| {
                    let text = fs::read_to_string(self.path(&format!("{program}.log"))).unwrap_or_default();
                    let end: Vec<_> = text.lines().rev().take(5).collect();
                    end.into_iter().rev().collect::<Vec<_>>().join("\n")
                };
                panic!(
                    "not ready (ended: {ended}); etcd:\n{}\nkube-apiserver:\n{}",
                    log("etcd"),
                    log("kube-apiserver")
                );
            }
            sleep(Duration::from_millis(200));
        }
    }

    fn kubectl(&self, words: &[&str]) -> Output {
        Command::new(self.programs.join("kubectl"))
            .arg("--kubeconfig")
            .arg(self.path("kubeconfig"))
            .args(words)
            .output()
            .expect("kubectl runs")
    }

    /// Standard output of a kubectl that must succeed without a warning.
    fn must(&self, words: &[&str]) -> String {
        let output = self.kubectl(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "kubectl {}:\n{errors}", words.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn json(&self, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.must(&all)).expect("kubectl writes JSON")
    }
}

/// Ports that are free now. All are held until all are known, so that they differ.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("loopback has free ports"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}

fn kubeconfig(port: u16) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true
        }}],
        "users": [{"name": "test", "user": {"token": "token"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]
    })
    .to_string()
}

fn etcd_flags(client: u16, peer: u16) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    vec![
        "--data-dir=etcd".into(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".into(),
    ]
}

fn api_server_flags(etcd: u16, secure: u16) -> Vec<String> {
    let mut flags: Vec<String> = [
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        "--cert-dir=certificates",
        "--service-account-key-file=sa.pub",
        "--service-account-signing-key-file=sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--token-auth-file=tokens.csv",
        "--authorization-mode=RBAC",
    ]
    .map(Into::into)
    .into();
    flags.push(format!("--etcd-servers=http://127.0.0.1:{etcd}"));
    flags.push(format!("--secure-port={secure}"));
    flags
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn manifests(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(name)).expect("the folder is there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("the folder is readable").path()).collect();
    paths.sort();
    assert!(paths.len() > 20, "only {} manifests in {name}", paths.len());
    paths
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of this repository are UTF-8")
}

/// Installs the definitions and waits until they are served.
fn install(server: &ApiServer) {
    server.must(&["apply", "-k", env!("CARGO_MANIFEST_DIR")]);
    server.must(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]);
    let definitions = server.json(&["get", "crd"]);
    let definitions = definitions["items"].as_array().expect("a list");
    assert_eq!(definitions.len(), all_crds().len());
    for definition in definitions {
        for condition in definition["status"]["conditions"].as_array().expect("a list") {
            let bad = condition["type"] == "NonStructuralSchema" || condition["status"] != "True";
            assert!(!bad, "{}: {condition}", definition["metadata"]["name"]);
        }
    }
    for namespace in ["shop", "axoneme-system"] {
        server.must(&["create", "namespace", namespace]);
    }
}

fn examples_are_taken(server: &ApiServer) {
    // those that catalogs show are taken, too
    for path in manifests("tests/examples").into_iter().chain([folder("../deploy/olm/examples.yaml")]) {
        let output = server.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", text(&path)]);
        let errors = String::from_utf8_lossy(&output.stderr);
        let unexpected: Vec<_> =
            errors.lines().filter(|line| !line.contains("CiliumCIDRGroup is deprecated")).collect();
        assert!(output.status.success() && unexpected.is_empty(), "{}: {unexpected:?}", path.display());
    }
}

/// The first line of each manifest says with what words it is refused.
fn bad_objects_are_refused(server: &ApiServer) {
    for path in manifests("tests/refused") {
        let manifest = fs::read_to_string(&path).expect("a manifest is text");
        let reason = manifest.lines().next().and_then(|line| line.strip_prefix("# refused: "));
        let reason = reason.unwrap_or_else(|| panic!("{}: the first line has no reason", path.display()));
        let output = server.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", text(&path)]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{}: taken, not refused", path.display());
        assert!(errors.contains(reason), "{}: not for this reason: {errors}", path.display());
    }
}

fn defaults_are_those_of_the_type(server: &ApiServer) {
    server.must(&["apply", "-f", text(&folder("tests/examples/config.yaml"))]);
    let stored = server.json(&["get", "axc", "default"]);
    let manifest = fs::read_to_string(folder("tests/examples/config.yaml")).expect("it is there");
    let written: Value = serde_saphyr::from_str(&manifest).expect("it is YAML");
    let read: AxonemeConfig = parse(written).expect("it is an AxonemeConfig");
    assert_eq!(stored["spec"], serde_json::to_value(&read.spec).expect("settings are JSON"));
}

/// (object, change, the words of the refusal)
const FORBIDDEN_CHANGES: [(&str, &str, &str); 3] = [
    ("axonemeconfig/default", r#"{"spec":{"ipam":{"mode":"Kubernetes"}}}"#, "the IPAM mode cannot be changed"),
    ("ciliumpodippool/default", r#"{"spec":{"ipv4":{"maskSize":25}}}"#, "maskSize cannot be changed"),
    ("ciliumpodippool/default", r#"{"spec":{"allowFirstIP":true}}"#, "allowFirstIP cannot be changed"),
];

fn forbidden_changes_are_refused(server: &ApiServer) {
    server.must(&["apply", "-f", text(&folder("tests/examples/pod-ip-pools.yaml"))]);
    for (object, change, reason) in FORBIDDEN_CHANGES {
        let output = server.kubectl(&["patch", object, "--type=merge", "-p", change]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(reason), "{object} {change}: {errors}");
    }
    server.must(&["patch", "axonemeconfig/default", "--type=merge", "-p", r#"{"spec":{"mtu":1400}}"#]);
    let add = r#"{"spec":{"ipv4":{"cidrs":["10.10.0.0/16","10.11.0.0/16"]}}}"#;
    server.must(&["patch", "ciliumpodippool/default", "--type=merge", "-p", add]);
}

fn short_names_columns_and_explanations_are_there(server: &ApiServer) {
    let line = server.must(&["get", "axc", "default", "--no-headers"]);
    assert!(line.contains("Overlay") && line.contains("ClusterPool"), "{line}");
    for name in ["cnp.cilium.io", "ciliumnp", "ccnp", "ccg", "ciliumid", "cn", "ciliumn", "cpip"] {
        assert!(server.kubectl(&["get", name]).status.success(), "no short name {name}");
    }
    let explained = server.must(&["explain", "axonemeconfig.spec.routing.overlay.port"]);
    assert!(explained.contains("The UDP port that nodes receive wrapped packets on"), "{explained}");
    let explained = server.must(&["explain", "ciliumnetworkpolicy.spec.egress.toPorts.ports.protocol"]);
    assert!(explained.contains("SCTP\n") && explained.contains("The protocol. Without it"), "{explained}");
}

#[test]
#[ignore = "needs cluster binaries: etcd, kube-apiserver and kubectl in the folder AXONEME_CLUSTER_BIN"]
fn an_api_server_serves_all_kinds() {
    let server = ApiServer::start();
    install(&server);
    examples_are_taken(&server);
    bad_objects_are_refused(&server);
    defaults_are_those_of_the_type(&server);
    forbidden_changes_are_refused(&server);
    short_names_columns_and_explanations_are_there(&server);
}
