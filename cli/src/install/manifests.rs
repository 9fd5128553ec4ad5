//! The manifests of `deploy/`, as they were when this program was built, in the order in which they are applied.

use serde_json::{Value, json};

use crate::{args::cluster::What, failure::Failure, kinds::Resource};

/// Files of `deploy/base`, in the order of its kustomization.
const BASE: &[(&str, &str)] = &[
    ("namespace.yaml", include_str!("../../../deploy/base/namespace.yaml")),
    ("rbac.yaml", include_str!("../../../deploy/base/rbac.yaml")),
    ("operator.yaml", include_str!("../../../deploy/base/operator.yaml")),
    ("agent.yaml", include_str!("../../../deploy/base/agent.yaml")),
    ("hubble.yaml", include_str!("../../../deploy/base/hubble.yaml")),
    ("webhooks.yaml", include_str!("../../../deploy/base/webhooks.yaml")),
    ("views.yaml", include_str!("../../../deploy/base/views.yaml")),
];
/// What takes the product off every node.
const UNINSTALL: &str = include_str!("../../../deploy/overlays/uninstall/daemonset.yaml");

pub const AGENT: &str = "axoneme-agent";
pub const OPERATOR: &str = "axoneme-operator";

/// In which order objects are made. Settings are there before anything reads them: an address pool cannot be taken back
/// from nodes that an operator has given it to by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Namespace,
    Kinds,
    Accounts,
    Settings,
    /// Services, ConfigMaps, NetworkPolicies.
    Surroundings,
    Agents,
    Deployments,
    /// Who is asked about objects, at last: somebody should be there to answer.
    Admission,
}

impl Stage {
    /// The stage of a kind of `deploy/base`.
    fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "Namespace" => Self::Namespace,
            "CustomResourceDefinition" => Self::Kinds,
            "ServiceAccount" | "ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding" => Self::Accounts,
            "AxonemeConfig" => Self::Settings,
            "Service" | "ConfigMap" | "NetworkPolicy" => Self::Surroundings,
            "DaemonSet" => Self::Agents,
            "Deployment" => Self::Deployments,
            "ValidatingWebhookConfiguration" => Self::Admission,
            _ => return None,
        })
    }
}

/// An object to apply.
#[derive(Clone, Debug)]
pub struct Step {
    pub stage: Stage,
    pub resource: Resource,
    pub object: Value,
}

impl Step {
    fn of(object: Value) -> Result<Self, Failure> {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        match (Stage::of(kind), Resource::of_object(&object)) {
            (Some(stage), Some(resource)) => Ok(Self { stage, resource, object }),
            _ => Err(Failure::Answer(format!("deploy/base: {kind}: no stage or resource is known of this kind"))),
        }
    }
}

/// All steps of an installation, in order.
pub fn steps(what: &What, settings: Option<Value>) -> Result<Vec<Step>, Failure> {
    let mut objects = definitions()?;
    for (file, text) in BASE {
        objects.extend(documents(file, text)?);
    }
    objects.extend(settings);
    let mut steps: Vec<Step> = objects.into_iter().map(Step::of).collect::<Result<_, _>>()?;
    for step in &mut steps {
        shaped(&mut step.object, what);
    }
    // stable: within a stage the order of the files, operator before relay
    steps.sort_by_key(|s| s.stage);
    Ok(steps)
}

/// The DaemonSet that takes the product off every node, with the image of the agents.
pub fn uninstaller(image: Option<&str>) -> Result<Value, Failure> {
    let mut all = documents("uninstall/daemonset.yaml", UNINSTALL)?;
    let mut object = all.pop().ok_or_else(|| Failure::Answer("deploy/overlays/uninstall: no DaemonSet".to_owned()))?;
    if let Some(image) = image {
        containers(&mut object, |container| {
            container.insert("image".to_owned(), image.into());
        });
    }
    Ok(object)
}

/// Names of the definitions of the product's kinds.
#[must_use]
pub fn kinds() -> Vec<String> {
    axoneme_crds::all_crds().into_iter().filter_map(|definition| definition.metadata.name).collect()
}

/// The definitions, with the label by which the operator knows them as the product's.
fn definitions() -> Result<Vec<Value>, Failure> {
    let one = |mut definition: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
        let labels = definition.metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/part-of".into(), "axoneme".into());
        serde_json::to_value(&definition).map_err(|e| Failure::Answer(e.to_string()))
    };
    axoneme_crds::all_crds().into_iter().map(one).collect()
}

fn documents(file: &str, text: &str) -> Result<Vec<Value>, Failure> {
    serde_saphyr::from_multiple(text).map_err(|e| Failure::Answer(format!("deploy/{file}: {e}")))
}

/// What the command line says of images and replicas.
fn shaped(object: &mut Value, what: &What) {
    containers(object, |container| {
        let Some(image) = container.get("image").and_then(Value::as_str) else { return };
        let image = named(image, what.registry.as_deref(), what.tag.as_deref());
        container.insert("image".to_owned(), image.into());
    });
    if let Some(replicas) = what.replicas
        && object.pointer("/metadata/name").is_some_and(|name| name == OPERATOR)
        && let Some(count) = object.pointer_mut("/spec/replicas")
    {
        *count = json!(replicas);
    }
}

/// An image of another registry and version.
fn named(image: &str, registry: Option<&str>, tag: Option<&str>) -> String {
    let (path, own_tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    let (own_registry, name) = path.rsplit_once('/').unwrap_or(("", path));
    let registry = registry.unwrap_or(own_registry).trim_end_matches('/');
    format!("{registry}/{name}:{}", tag.unwrap_or(own_tag))
}

fn containers(object: &mut Value, mut change: impl FnMut(&mut serde_json::Map<String, Value>)) {
    for path in ["/spec/template/spec/containers", "/spec/template/spec/initContainers"] {
        let list = object.pointer_mut(path).and_then(Value::as_array_mut);
        list.into_iter().flatten().filter_map(Value::as_object_mut).for_each(&mut change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_deploy_base_is_applied_in_an_order_that_can_work() {
        let text = include_str!("../../../deploy/base/kustomization.yaml");
        let kustomization: Value = serde_saphyr::from_str(text).unwrap();
        let listed: Vec<&str> =
            kustomization["resources"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(listed, BASE.iter().map(|(file, _)| *file).collect::<Vec<_>>());
        let config =
            json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default"}});
        let steps = steps(&What::default(), Some(config)).unwrap();
        let kinds: Vec<_> = steps.iter().map(|s| s.object["kind"].as_str().unwrap()).collect();
        let first = |kind| kinds.iter().position(|k| *k == kind).unwrap();
        assert_eq!(kinds[0], "Namespace");
        let order = [
            "CustomResourceDefinition",
            "ServiceAccount",
            "AxonemeConfig",
            "DaemonSet",
            "Deployment",
            "ValidatingWebhookConfiguration",
        ];
        assert!(order.windows(2).all(|pair| first(pair[0]) < first(pair[1])), "{kinds:?}");
        for step in &steps {
            let namespace = step.object["metadata"]["namespace"].as_str();
            assert_eq!(namespace.is_some(), step.resource.namespaced, "{}", step.object);
            assert!(namespace.is_none_or(|n| n == crate::install::NAMESPACE));
        }
    }

    #[test]
    fn images_and_replicas_are_those_of_the_command_line() {
        let what = What {
            registry: Some("localhost:5000/x/".into()),
            tag: Some("v9".into()),
            replicas: Some(2),
            ..What::default()
        };
        let steps = steps(&what, None).unwrap();
        let of = |name: &str, kind: &str| {
            steps
                .iter()
                .find(|s| s.object["metadata"]["name"] == name && s.object["kind"] == kind)
                .unwrap()
                .object
                .clone()
        };
        let operator = of("axoneme-operator", "Deployment");
        assert_eq!(operator["spec"]["template"]["spec"]["containers"][0]["image"], "localhost:5000/x/operator:v9");
        assert_eq!(operator["spec"]["replicas"], 2);
        assert_eq!(of("hubble-relay", "Deployment")["spec"]["replicas"], 1);
        assert_eq!(
            of("axoneme-agent", "DaemonSet")["spec"]["template"]["spec"]["containers"][0]["image"],
            "localhost:5000/x/agent:v9"
        );
        let uninstaller = uninstaller(Some("r/agent:v9")).unwrap();
        let pod = &uninstaller["spec"]["template"]["spec"];
        assert_eq!(
            (&pod["containers"][0]["image"], &pod["initContainers"][0]["image"]),
            (&json!("r/agent:v9"), &json!("r/agent:v9"))
        );
    }
}
