//! What a bundle is made of, sorted by what OLM does with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{list, text};

/// Kinds of `deploy/base` that a bundle cannot carry (`supportedResources` in operator-registry's
/// pkg/lib/bundle/supported_resources.go), and why they are not needed in it.
pub(super) const LEFT_OUT: &[(&str, &str)] = &[
    // The bundle's description says where they come from.
    ("DaemonSet", "agents are there before OLM's own pods can have a network"),
    // `webhookdefinitions` are no substitute: OLM replaces their namespace selector (WebhookDescription has none), by which
    // the control plane's namespaces are exempt, and puts its own authority in the place of the operator's.
    ("ValidatingWebhookConfiguration", "the operator registers itself in the one of deploy/"),
];

/// deploy/olm/bundle.yaml.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Words {
    pub(super) package: String,
    pub(super) display_name: String,
    pub(super) summary: String,
    pub(super) description: String,
    pub(super) keywords: Vec<String>,
    pub(super) capabilities: String,
    pub(super) categories: Vec<String>,
    pub(super) maturity: String,
    pub(super) min_kube_version: String,
    pub(super) created_at: String,
    pub(super) provider: Value,
    pub(super) maintainers: Vec<Value>,
    pub(super) links: Vec<Value>,
    pub(super) repository: String,
    /// Definitions of kinds that people do not make.
    pub(super) internal: Vec<String>,
    pub(super) channel: String,
    pub(super) released: Vec<String>,
}

/// Everything.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) version: String,
    pub(super) words: Words,
    pub(super) icon: Vec<u8>,
    pub(super) examples: Vec<Value>,
    /// Definitions, as their files are.
    pub(super) kinds: BTreeMap<String, String>,
    pub(super) namespace: Value,
    pub(super) deployments: Vec<Value>,
    /// Rules by service account, of all namespaces and of the own one.
    pub(super) cluster_rights: BTreeMap<String, Vec<Value>>,
    pub(super) rights: BTreeMap<String, Vec<Value>>,
    /// What goes into the bundle as it is.
    pub(super) objects: Vec<Value>,
    /// All images that are run, whoever starts them.
    pub(super) images: BTreeMap<String, String>,
}

impl Source {
    /// Reads a checkout.
    pub(super) fn read(root: &Path, version: &str) -> Result<Self> {
        let olm = root.join("deploy/olm");
        let words = fs::read_to_string(olm.join("bundle.yaml")).context("deploy/olm/bundle.yaml")?;
        let words: Words = serde_saphyr::from_str(&words).context("deploy/olm/bundle.yaml")?;
        let mut kinds = BTreeMap::new();
        for entry in fs::read_dir(root.join("crds/generated"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            kinds.insert(name, fs::read_to_string(&path)?);
        }
        let mut source = Self {
            version: version.to_owned(),
            words,
            icon: fs::read(olm.join("icon.svg")).context("deploy/olm/icon.svg")?,
            examples: documents(&olm.join("examples.yaml"))?,
            kinds,
            namespace: Value::Null,
            deployments: Vec::new(),
            cluster_rights: BTreeMap::new(),
            rights: BTreeMap::new(),
            objects: Vec::new(),
            images: BTreeMap::new(),
        };
        source.sort(manifests(&root.join("deploy/base"))?)?;
        Ok(source)
    }

    /// Every manifest finds its place, or is an error.
    fn sort(&mut self, manifests: Vec<Value>) -> Result<()> {
        let manifests: Vec<Value> = manifests.into_iter().map(|object| self.released(object)).collect();
        let of = |kind: &str| manifests.iter().filter(|o| text(o, "/kind") == kind).cloned().collect::<Vec<_>>();
        self.namespace = of("Namespace").pop().context("deploy/base has no Namespace")?;
        self.deployments = of("Deployment");
        let accounts: BTreeSet<String> =
            self.deployments.iter().map(|d| text(d, "/spec/template/spec/serviceAccountName").to_owned()).collect();
        // OLM makes the accounts that have rights, if only none
        self.rights = accounts.iter().map(|a| (a.clone(), Vec::new())).collect();
        for object in &manifests {
            let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
            match kind {
                // part of roles that others are given
                "ClusterRole" if is_aggregated(object) => self.objects.push(object.clone()),
                "Namespace" | "Deployment" | "ClusterRole" | "Role" => {}
                "ServiceAccount" if accounts.contains(name) => {}
                "ClusterRoleBinding" | "RoleBinding" => self.bind(object, &manifests, &accounts)?,
                "ServiceAccount" | "Service" | "ConfigMap" | "NetworkPolicy" => {
                    self.objects.push(without_namespace(object));
                }
                _ if LEFT_OUT.iter().any(|(left, _)| *left == kind) => {}
                _ => bail!("deploy/base: {kind} {name}: say in xtask/src/bundle/source.rs what OLM does with it"),
            }
        }
        Ok(())
    }

    /// The rights of a binding: those of a deployment's account are OLM's to give, others go along as they are.
    fn bind(&mut self, binding: &Value, manifests: &[Value], accounts: &BTreeSet<String>) -> Result<()> {
        let (kind, role) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        let found = manifests.iter().find(|o| text(o, "/kind") == kind && text(o, "/metadata/name") == role);
        let found = found.with_context(|| format!("deploy/base: no {kind} {role}, which is bound"))?;
        let [subject] = list(binding, "/subjects") else {
            bail!("deploy/base: the binding of {role} has not one subject")
        };
        let account = text(subject, "/name").to_owned();
        if !accounts.contains(&account) {
            self.objects.extend([found, binding].map(without_namespace));
            return Ok(());
        }
        let rights = if kind == "ClusterRole" { &mut self.cluster_rights } else { &mut self.rights };
        ensure!(!list(found, "/rules").is_empty(), "deploy/base: {kind} {role} has no rules");
        rights.entry(account).or_default().extend_from_slice(list(found, "/rules"));
        Ok(())
    }

    /// A manifest with the images of the release in the place of those of a checkout, and a note of them.
    fn released(&mut self, mut object: Value) -> Value {
        for path in ["/spec/template/spec/containers", "/spec/template/spec/initContainers"] {
            for container in object.pointer_mut(path).and_then(Value::as_array_mut).into_iter().flatten() {
                let Some(image) = container.get_mut("image") else { continue };
                let (name, _) = image.as_str().unwrap_or_default().rsplit_once(':').unwrap_or_default();
                let full = format!("{name}:v{}", self.version);
                let short = name.rsplit('/').next().unwrap_or_default().to_owned();
                *image = full.clone().into();
                self.images.insert(short, full);
            }
        }
        object
    }

    /// Definitions as values, in the order of their files.
    pub(super) fn definitions(&self) -> Result<Vec<Value>> {
        self.kinds.iter().map(|(name, text)| serde_saphyr::from_str(text).with_context(|| name.clone())).collect()
    }

    /// `axoneme-operator.v0.1.0`.
    pub(super) fn name(&self, version: &str) -> String {
        format!("{}.v{version}", self.words.package)
    }
}

/// Whether a role is part of Kubernetes' own roles, by its labels.
fn is_aggregated(role: &Value) -> bool {
    let labels = role.pointer("/metadata/labels").and_then(Value::as_object);
    labels.into_iter().flatten().any(|(k, _)| k.starts_with("rbac.authorization.k8s.io/aggregate-to-"))
}

/// OLM puts objects into the namespace of the operator.
fn without_namespace(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("namespace");
    }
    object
}

/// The objects of a kustomization, in its order.
fn manifests(folder: &Path) -> Result<Vec<Value>> {
    let [kustomization] = <[Value; 1]>::try_from(documents(&folder.join("kustomization.yaml"))?)
        .map_err(|_| anyhow::anyhow!("{}: one kustomization", folder.display()))?;
    let fields: Vec<&str> = kustomization.as_object().into_iter().flat_map(|o| o.keys()).map(String::as_str).collect();
    ensure!(fields == ["apiVersion", "kind", "resources"], "{}: only resources are read: {fields:?}", folder.display());
    let mut all = Vec::new();
    for file in list(&kustomization, "/resources") {
        all.extend(documents(&folder.join(file.as_str().unwrap_or_default()))?);
    }
    Ok(all)
}

pub(super) fn documents(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    // as kubectl reads them: `0440` is octal
    let options = serde_saphyr::options! { strict_booleans: false, legacy_octal_numbers: true };
    serde_saphyr::from_multiple_with_options(&text, options).with_context(|| path.display().to_string())
}
