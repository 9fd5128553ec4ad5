//! A cluster with Axoneme installed, and questions to ask it: what the demo and the cluster tests share.

mod pods;
mod stream;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

pub(crate) use self::pods::{Outcome, Pod, outcomes, target};
pub(crate) use self::stream::{Stream, Until};
use crate::cluster::{Cluster, Cni, Family, Options};
use crate::command::{output, program};
use crate::progress::{say, step, wait};
use crate::{image, settings};

/// Namespace of the product.
pub(crate) const SYSTEM: &str = "axoneme-system";

/// Between two questions: most cost more to ask than they wait.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a cluster may take to have what it was told.
fn patience() -> Duration {
    Duration::from_mins(3).saturating_mul(settings::patience())
}

/// As kubectl takes it.
fn timeout(limit: Duration) -> String {
    format!("--timeout={}s", limit.as_secs())
}

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routing {
    Overlay,
    Native,
}

/// Who puts the product onto a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Installer {
    /// `kubectl apply -k deploy/overlays/dev`.
    Kubectl,
    /// `axoneme install`.
    CommandLine,
}

/// A running cluster whose nodes are networked by the checkout's images.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
}

impl Lab {
    /// Makes the cluster, loads the images, installs from `deploy/`, waits until every node is Ready and DNS answers.
    ///
    /// # Errors
    /// What failed, with the state of the product's pods and the end of their logs.
    pub(crate) fn up(name: &str, nodes: u8, family: Family, routing: Routing) -> Result<Self> {
        let lab = Self::bare(name, nodes, family, &image::build()?)?;
        lab.networked(Installer::Kubectl, routing, "{mode: Kubernetes}")?;
        Ok(lab)
    }

    /// Makes the cluster and loads the images; nobody gives its pods a network yet.
    pub(crate) fn bare(name: &str, nodes: u8, family: Family, archives: &[PathBuf]) -> Result<Self> {
        let options = Options { name: name.to_owned(), nodes, family, cni: Cni::None, ..Options::default() };
        let cluster = step(&format!("cluster {name}: {nodes} nodes"), || Cluster::up(&options))?;
        let lab = Self { cluster };
        step(&format!("images onto the nodes of {name}"), || lab.cluster.load(archives))?;
        Ok(lab)
    }

    /// Installs from `deploy/`, waits until every node is Ready and DNS answers. `ipam` is `spec.ipam` of the
    /// AxonemeConfig, in YAML on one line.
    pub(crate) fn networked(&self, installer: Installer, routing: Routing, ipam: &str) -> Result<()> {
        let name = self.cluster.name();
        let spec = self.spec(routing, ipam);
        match installer {
            Installer::Kubectl => {
                step(&format!("install from deploy/overlays/dev: {name}"), || self.install(&spec))?;
            }
            Installer::CommandLine => {
                step(&format!("axoneme install: {name}"), || self.install_by_command_line(&spec))?;
            }
        }
        step(&format!("nodes Ready: {name}"), || self.ready())?;
        step(&format!("cluster DNS: {name}"), || {
            self.cluster.apply_dns().and_then(|()| self.rollout("kube-system", "deployment/coredns"))
        })
    }

    fn install(&self, spec: &str) -> Result<()> {
        self.apply(&seed(spec))?;
        let overlay = settings::repository().join("deploy/overlays/dev");
        self.cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &overlay.display().to_string()])?;
        Ok(())
    }

    fn install_by_command_line(&self, spec: &str) -> Result<()> {
        let file = settings::target().join(format!("tmp/{}.yaml", self.cluster.name()));
        std::fs::create_dir_all(file.parent().context("a directory")?)?;
        std::fs::write(&file, spec)?;
        self.axoneme(&["install", "--values", &file.display().to_string(), "--wait"]).map(drop)
    }

    /// What the checkout's command line prints, asked about this cluster.
    pub(crate) fn axoneme(&self, words: &[&str]) -> Result<String> {
        let kubeconfig = format!("--kubeconfig={}", self.cluster.kubeconfig().display());
        output(program(image::binary("axoneme")).args(words).arg(kubeconfig))
    }

    /// The one AxonemeConfig.
    fn spec(&self, routing: Routing, ipam: &str) -> String {
        let layout = self.cluster.layout();
        let families = match layout.family {
            Family::V4 => "[IPv4]",
            Family::V6 => "[IPv6]",
            Family::Dual => "[IPv4, IPv6]",
        };
        let mode = match routing {
            Routing::Overlay => "{mode: Overlay}",
            Routing::Native => "{mode: Native, native: {autoDirectNodeRoutes: true}}",
        };
        format!(
            "apiVersion: axoneme.io/v1alpha1\nkind: AxonemeConfig\nmetadata: {{name: default}}\nspec:\n  ipFamilies: \
             {families}\n  routing: {mode}\n  ipam: {ipam}\n"
        )
    }

    /// Waits until all nodes are Ready.
    pub(crate) fn ready(&self) -> Result<()> {
        let limit = patience();
        let waited = self.cluster.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", &timeout(limit)]);
        waited.map(drop).or_else(|e| bail!("{e:#}\nafter {limit:?}:\n{}", self.diagnosis()))
    }

    /// Waits until a workload is rolled out.
    pub(crate) fn rollout(&self, namespace: &str, what: &str) -> Result<()> {
        let waited = self.cluster.kubectl(&["-n", namespace, "rollout", "status", what, &timeout(patience())]);
        waited.map(drop).or_else(|e| bail!("{e:#}\n{}", self.diagnosis()))
    }

    /// Pods of all namespaces and the last lines of the product's logs.
    pub(crate) fn diagnosis(&self) -> String {
        let ask = |words: &[&str]| self.cluster.kubectl(words).unwrap_or_else(|e| format!("{e:#}"));
        let mut text = ask(&["get", "pods", "-A", "-o", "wide"]);
        for app in ["axoneme-operator", "axoneme-agent"] {
            text.extend(["--- ", app, "\n"]);
            let label = format!("app.kubernetes.io/name={app}");
            text.push_str(&ask(&["-n", SYSTEM, "logs", "-l", &label, "--tail=15", "--prefix"]));
        }
        text
    }

    /// Applies manifests.
    pub(crate) fn apply(&self, yaml: &str) -> Result<()> {
        self.cluster.kubectl_apply(yaml).map(drop)
    }

    /// Applies a file of the repository.
    pub(crate) fn apply_file(&self, path: &str) -> Result<()> {
        let path = settings::repository().join(path);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        self.apply(&text)
    }

    /// Deletes what the manifests of a file name; what is gone already is fine.
    pub(crate) fn delete_file(&self, path: &str) -> Result<()> {
        let path: &Path = &settings::repository().join(path);
        self.cluster
            .kubectl(&["delete", "--ignore-not-found", "--wait=true", "-f", &path.display().to_string()])
            .map(drop)
    }

    /// An object as JSON.
    pub(crate) fn get(&self, words: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(words);
        Ok(serde_json::from_str(&self.cluster.kubectl(&all)?)?)
    }

    /// Waits until a policy's condition has this status, or until it is enforced at its newest generation.
    pub(crate) fn condition(&self, words: &[&str], kind: &str, status: &str) -> Result<Value> {
        wait(&format!("{} {kind}={status}", words.join(" ")), Duration::from_mins(2), Duration::from_millis(50), || {
            let object = self.get(words)?;
            let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
            let conditions =
                object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
            Ok(conditions.into_iter().find(|c| {
                c.get("type").and_then(Value::as_str) == Some(kind)
                    && c.get("status").and_then(Value::as_str) == Some(status)
                    && c.get("observedGeneration").and_then(Value::as_i64).is_none_or(|seen| Some(seen) == generation)
            }))
        })
    }

    /// Asks again until the answer is the wanted one; the last answer in the error.
    pub(crate) fn eventually<T: std::fmt::Debug>(
        what: &str,
        limit: Duration,
        mut ask: impl FnMut() -> Result<T>,
        good: impl Fn(&T) -> bool,
    ) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let answer = ask()?;
            if good(&answer) {
                return Ok(began.elapsed());
            }
            if began.elapsed() > limit {
                bail!("{what}: after {limit:?} still {answer:?}");
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends the cluster, and says what it left on the machine if anything.
    pub(crate) fn down(self) -> Result<()> {
        let (name, layout) = (self.cluster.name().to_owned(), self.cluster.layout());
        step(&format!("cluster {name} down"), || self.cluster.down())?;
        let left = Cluster::leavings(&name, layout)?;
        anyhow::ensure!(left.is_empty(), "left on the machine: {}", left.join(", "));
        say("  ok nothing left on the machine");
        Ok(())
    }
}

/// An AxonemeConfig as the ConfigMap that the operator seeds it from.
fn seed(spec: &str) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {SYSTEM}}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: \
         {{name: axoneme-config, namespace: {SYSTEM}}}\ndata:\n  axonemeconfig.yaml: |\n"
    );
    for line in spec.lines() {
        text.extend(["    ", line, "\n"]);
    }
    text
}
