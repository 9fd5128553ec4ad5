//! The bundle of this checkout keeps every rule, and every rule can be broken.

use serde_json::{Value, json};

use super::rules::{self, Bundle};
use super::*;

fn source() -> Source {
    Source::read(&settings::repository(), "0.1.0").unwrap()
}

fn bundle() -> Bundle {
    Bundle::read(&render(&source()).unwrap()).unwrap()
}

fn at<'a>(object: &'a mut Value, path: &str) -> &'a mut Value {
    object.pointer_mut(path).unwrap_or_else(|| panic!("no {path}"))
}

fn note<'a>(bundle: &'a mut Bundle, name: &str) -> &'a mut Value {
    bundle.csv["metadata"]["annotations"].get_mut(name).unwrap_or_else(|| panic!("no annotation {name}"))
}

fn of_kind<'a>(bundle: &'a mut Bundle, kind: &str) -> &'a mut Value {
    let found = bundle.manifests.iter_mut().find(|(_, object)| text(object, "/kind") == kind);
    &mut found.unwrap_or_else(|| panic!("no {kind}")).1
}

fn blob<'a>(bundle: &'a mut Bundle, schema: &str) -> &'a mut Value {
    bundle.catalog.iter_mut().find(|b| text(b, "/schema") == schema).unwrap()
}

#[test]
fn the_bundle_of_this_checkout_breaks_no_rule() {
    assert_eq!(rules::breaches(&bundle()), [""; 0]);
}

#[test]
fn the_files_in_the_repository_are_those_that_would_be_written() {
    current().unwrap();
}

/// The rule that is broken, what breaks it, and a word of what is told.
type Breach = (&'static str, fn(&mut Bundle), &'static str);

const CONTENTS: &[Breach] = &[
    ("one version", |b| b.manifests.retain(|(_, o)| text(o, "/kind") != "ClusterServiceVersion"), "0 Cluster"),
    ("kinds that OLM takes", |b| of_kind(b, "Service")["kind"] = json!("DaemonSet"), "DaemonSet"),
    (
        "annotations",
        |b| b.annotations["annotations"]["operators.operatorframework.io.bundle.mediatype.v1"] = json!("helm"),
        "registry+v1",
    ),
    (
        "annotations",
        |b| b.annotations["annotations"]["operators.operatorframework.io.bundle.package.v1"] = json!(""),
        "package.v1 is empty",
    ),
    ("labels of the image", |b| b.dockerfile = b.dockerfile.replace("registry+v1", "helm"), "mediatype"),
    (
        "channel names",
        |b| {
            b.annotations["annotations"]["operators.operatorframework.io.bundle.channels.v1"] =
                json!("candidate,alpha");
        },
        "alpha",
    ),
    (
        "channel names",
        |b| b.annotations["annotations"]["operators.operatorframework.io.bundle.channel.default.v1"] = json!("fast"),
        "default",
    ),
    ("owned definitions", |b| b.manifests.retain(|(file, _)| !file.contains("ciliumnodes")), "CiliumNode"),
    (
        "owned definitions",
        |b| drop(b.csv["spec"]["customresourcedefinitions"]["owned"].as_array_mut().unwrap().pop()),
        "not owned",
    ),
    (
        "owned definitions",
        |b| {
            let copy = of_kind(b, "CustomResourceDefinition").clone();
            b.manifests.push(("manifests/copy.yaml".to_owned(), copy));
        },
        "defined twice",
    ),
    (
        "service accounts",
        |b| of_kind(b, "ServiceAccount")["metadata"]["name"] = json!("axoneme-operator"),
        "OLM's to make",
    ),
    (
        "service accounts",
        |b| b.csv["spec"]["install"]["spec"]["permissions"] = json!([]),
        "hubble-relay is made by nobody",
    ),
    ("size", |b| b.packed = 1 << 20, "more than"),
    ("versions of APIs", |b| of_kind(b, "Role")["apiVersion"] = json!("rbac.authorization.k8s.io/v1beta1"), "v1beta1"),
    ("examples", |b| *note(b, "alm-examples") = json!("[{]"), "no list in JSON"),
    ("examples", |b| *note(b, "alm-examples") = json!("[]"), "no example of"),
    ("examples", |b| *note(b, "alm-examples") = json!(r#"[{"apiVersion": "v1", "kind": "Pod"}]"#), "not owned"),
    (
        "examples by their schemas",
        |b| {
            let with = note(b, "alm-examples").as_str().unwrap().replace("\"tier\"", "\"tire\"");
            *note(b, "alm-examples") = with.into();
        },
        ".spec.tire: no such field",
    ),
    (
        "descriptors",
        |b| *at(&mut b.csv, "/spec/customresourcedefinitions/owned/0/specDescriptors/0/path") = json!("nothing"),
        "is no field",
    ),
    (
        "descriptors",
        |b| *at(&mut b.csv, "/spec/customresourcedefinitions/owned/0/description") = json!(""),
        "no description",
    ),
    ("scorecard", |b| b.scorecard = json!({}), "no Configuration"),
    ("scorecard", |b| *at(&mut b.scorecard, "/stages/0/tests/0/image") = json!(""), "without image"),
];

const VERSION: &[Breach] = &[
    ("name", |b| *at(&mut b.csv, "/metadata/name") = json!("axoneme-operator-0.1.0"), "<operator-name>.v<semver>"),
    ("name", |b| *at(&mut b.csv, "/metadata/name") = json!(format!("{}.v0.1.0", "a".repeat(60))), "<operator-name>"),
    ("name", |b| *at(&mut b.csv, "/metadata/name") = json!("axoneme-operator.v0.2.0"), "is not of version"),
    ("name", |b| b.csv["spec"]["replaces"] = json!("Axoneme.v0.0.1"), "replaces"),
    ("name", |b| b.csv["spec"]["replaces"] = json!("axoneme-operator.v0.1.0"), "replaces"),
    ("version", |b| b.csv["spec"]["version"] = json!("0.1"), "0.1"),
    ("version", |b| b.csv["spec"]["version"] = json!("0.0.0"), "0.0.0"),
    ("minKubeVersion", |b| b.csv["spec"]["minKubeVersion"] = json!("1.31"), "no semantic version"),
    ("required fields", |b| b.csv["spec"]["displayName"] = json!(""), "displayName"),
    ("required fields", |b| b.csv["spec"]["keywords"] = json!([]), "keywords"),
    ("required fields", |b| *note(b, "support") = json!(""), "support"),
    ("required fields", |b| *note(b, "createdAt") = json!("22.11.2026"), "createdAt"),
    ("required fields", |b| *note(b, "containerImage") = json!("ghcr.io/axoneme/operator"), "containerImage"),
    ("capabilities", |b| *note(b, "capabilities") = json!("Everything"), "Everything"),
    ("categories", |b| *note(b, "categories") = json!("Networking, Plumbing"), "Plumbing"),
    (
        "spelling of annotations",
        |b| b.csv["metadata"]["annotations"]["olm.skiprange"] = json!("<1.0.0"),
        "olm.skipRange",
    ),
    (
        "spelling of annotations",
        |b| b.csv["metadata"]["annotations"]["olm.properties"] = json!("[]"),
        "properties.yaml",
    ),
    ("provider", |b| b.csv["spec"]["provider"]["name"] = json!(" "), "no name"),
    ("maintainers", |b| b.csv["spec"]["maintainers"] = json!([]), "nobody"),
    ("maintainers", |b| *at(&mut b.csv, "/spec/maintainers/0/email") = json!("nobody"), "needs a name and an address"),
    ("links", |b| *at(&mut b.csv, "/spec/links/0/url") = json!("axoneme.io"), "needs a name and a URL"),
    ("icon", |b| b.csv["spec"]["icon"] = json!([]), "there is to be one"),
    ("icon", |b| *at(&mut b.csv, "/spec/icon/0/mediatype") = json!("image/webp"), "webp"),
    ("icon", |b| *at(&mut b.csv, "/spec/icon/0/base64data") = json!("aGVsbG8="), "no data"),
    ("install modes", |b| b.csv["spec"]["installModes"] = json!([]), "not each one once"),
    ("install modes", |b| *at(&mut b.csv, "/spec/installModes/3/supported") = json!(false), "none is supported"),
    ("deployments", |b| b.csv["spec"]["install"]["spec"]["deployments"] = json!([]), "none"),
    (
        "deployments",
        |b| {
            let asked =
                at(&mut b.csv, "/spec/install/spec/deployments/0/spec/template/spec/containers/0/resources/requests");
            drop(asked.as_object_mut().unwrap().remove("cpu"));
        },
        "requests no cpu",
    ),
    ("related images", |b| *at(&mut b.csv, "/spec/relatedImages/0/image") = json!("GHCR.io/x"), "GHCR"),
    ("related images", |b| b.csv["spec"]["relatedImages"] = json!([]), "is run and not named"),
    (
        "webhooks",
        |b| b.csv["spec"]["webhookdefinitions"] = json!([{"generateName": "w", "deploymentName": "other"}]),
        "no such deployment",
    ),
    (
        "webhooks",
        |b| {
            b.csv["spec"]["webhookdefinitions"] =
                json!([{"deploymentName": "axoneme-operator", "rules": [{"apiGroups": ["*"]}]}]);
        },
        "lock the cluster",
    ),
];

const CATALOG: &[Breach] = &[
    ("catalog", |b| b.catalog.retain(|blob| text(blob, "/schema") != "olm.package"), "0 packages"),
    ("catalog", |b| blob(b, "olm.package")["defaultChannel"] = json!("stable"), "default channel"),
    ("catalog", |b| blob(b, "olm.package")["icon"] = json!({}), "icon"),
    ("catalog", |b| blob(b, "olm.channel")["package"] = json!("other"), "is not of package"),
    ("catalog", |b| blob(b, "olm.bundle")["image"] = json!(""), "with an image"),
    (
        "upgrades",
        |b| {
            blob(b, "olm.channel")["entries"] =
                json!([{"name": "axoneme-operator.v0.1.0"}, {"name": "axoneme-operator.v0.0.9"}]);
        },
        "the heads are",
    ),
    ("upgrades", |b| *at(blob(b, "olm.channel"), "/entries/0/skipRange") = json!("<=0.1.0"), "skipRange"),
    ("upgrades", |b| b.csv["spec"]["replaces"] = json!("axoneme-operator.v0.0.9"), "other upgrades"),
    ("properties", |b| blob(b, "olm.bundle")["properties"] = json!([]), "exactly one"),
    ("properties", |b| *at(blob(b, "olm.bundle"), "/properties/0/value/version") = json!("9.9.9"), "9.9.9"),
    ("properties", |b| drop(blob(b, "olm.bundle")["properties"].as_array_mut().unwrap().remove(1)), "olm.gvk"),
    ("properties", |b| drop(blob(b, "olm.bundle")["properties"].as_array_mut().unwrap().pop()), "olm.csv.metadata"),
    ("properties", |b| blob(b, "olm.bundle")["relatedImages"] = json!([]), "related images"),
];

#[test]
fn every_rule_can_be_broken() {
    let good = bundle();
    let all = [CONTENTS, VERSION, CATALOG].concat();
    for (rule, breach, word) in &all {
        let mut bad = good.clone();
        breach(&mut bad);
        let told = rules::breaches(&bad);
        let found = told.iter().any(|line| line.starts_with(&format!("{rule}: ")) && line.contains(word));
        assert!(found, "{rule}: no {word:?} in {told:#?}");
    }
    for (rule, source, _) in rules::rules() {
        assert!(all.iter().any(|(broken, ..)| *broken == rule), "nothing breaks the rule {rule:?}");
        assert!(!source.is_empty());
    }
}

#[test]
fn the_second_version_replaces_the_first() {
    let mut next = source();
    next.version = "0.2.0".to_owned();
    next.words.released.push("0.1.0".to_owned());
    let bundle = Bundle::read(&render(&next).unwrap()).unwrap();
    assert_eq!(rules::breaches(&bundle), [""; 0]);
    assert_eq!(bundle.csv["spec"]["replaces"], "axoneme-operator.v0.1.0");
    assert_eq!(bundle.csv["metadata"]["annotations"]["olm.skipRange"], "<0.2.0");
    let channel = bundle.catalog.iter().find(|b| text(b, "/schema") == "olm.channel").unwrap();
    assert_eq!(channel["entries"][0]["replaces"], "axoneme-operator.v0.1.0");
}

/// What `kubectl apply -k deploy/overlays/dev` runs is what OLM runs, but for the images' tags.
#[test]
fn the_install_strategy_is_that_of_the_manifests() {
    let bundle = bundle();
    let deployments = list(&bundle.csv, "/spec/install/spec/deployments");
    let names: Vec<&str> = deployments.iter().map(|d| text(d, "/name")).collect();
    assert_eq!(names, ["axoneme-operator", "hubble-relay"]);
    let container = &deployments[0]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "ghcr.io/axoneme/operator:v0.1.0");
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    // numbers are those that kubectl reads: 0440
    assert_eq!(deployments[1]["spec"]["template"]["spec"]["volumes"][0]["secret"]["defaultMode"], 0o440);
    let rights = &bundle.csv["spec"]["install"]["spec"]["clusterPermissions"];
    assert_eq!(rights[0]["serviceAccountName"], "axoneme-operator");
    assert!(list(rights, "/0/rules").iter().any(|rule| list(rule, "/resources").contains(&json!("ciliumidentities"))));
    // agents' account and rights go along: no deployment of this version has them
    let kinds: Vec<String> =
        bundle.manifests.iter().map(|(_, o)| format!("{} {}", text(o, "/kind"), text(o, "/metadata/name"))).collect();
    for object in [
        "ServiceAccount axoneme-agent",
        "Role axoneme-agent",
        "RoleBinding axoneme-agent",
        "Service axoneme-webhooks",
        "Service axoneme-views",
        "ClusterRole axoneme-views-namespaced",
        "NetworkPolicy hubble-relay",
        "ConfigMap axoneme-hubble",
    ] {
        assert!(kinds.iter().any(|k| k == object), "no {object} in {kinds:?}");
    }
}

/// kubelet makes `AXONEME_VIEWS_PORT=tcp://…` of the Service axoneme-views, which is a setting of the operator with another
/// meaning.
#[test]
fn no_service_of_the_namespace_becomes_a_setting() {
    let mut workloads = 0;
    for file in std::fs::read_dir(settings::repository().join("deploy/base")).unwrap().flatten() {
        for object in source::documents(&file.path()).unwrap() {
            let Some(pod) = object.pointer("/spec/template/spec") else { continue };
            assert_eq!(
                pod["enableServiceLinks"],
                false,
                "{} {}",
                text(&object, "/kind"),
                text(&object, "/metadata/name")
            );
            workloads += 1;
        }
    }
    assert_eq!(workloads, 3, "operator, agents, relay");
}

#[test]
fn a_manifest_of_a_kind_that_nobody_has_thought_of_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let copy = |from: &str| {
        let (from, to) = (settings::repository().join(from), root.path().join(from));
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    };
    ["deploy/olm", "deploy/base", "crds/generated"].into_iter().for_each(copy);
    assert!(Source::read(root.path(), "0.1.0").is_ok());
    let file = root.path().join("deploy/base/namespace.yaml");
    let more = "---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {name: nightly}\n";
    fs::write(&file, fs::read_to_string(&file).unwrap() + more).unwrap();
    let told = Source::read(root.path(), "0.1.0").unwrap_err().to_string();
    assert!(told.contains("CronJob nightly"), "{told}");
}

#[test]
fn drift_is_found_and_mended() {
    let root = tempfile::tempdir().unwrap();
    let files = Files::from([("a/b.yaml".to_owned(), "x\ny\n".to_owned()), ("c".to_owned(), "z\n".to_owned())]);
    assert_eq!(drifts(root.path(), &files).unwrap(), ["a/b.yaml: missing", "c: missing"]);
    assert_eq!(write(root.path(), &files).unwrap(), ["a/b.yaml", "c"]);
    assert_eq!(drifts(root.path(), &files).unwrap(), [""; 0]);
    fs::write(root.path().join("a/b.yaml"), "x\nother\n").unwrap();
    fs::write(root.path().join("stale"), "").unwrap();
    fs::write(root.path().join("README.md"), "for people").unwrap();
    assert_eq!(drifts(root.path(), &files).unwrap(), ["a/b.yaml:2: differs", "stale: no part of it"]);
    assert_eq!(write(root.path(), &files).unwrap(), ["a/b.yaml", "stale"]);
    assert_eq!(write(root.path(), &files).unwrap(), [""; 0]);
}
