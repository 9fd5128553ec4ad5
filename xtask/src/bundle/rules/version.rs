//! The ClusterServiceVersion's own fields.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use serde_json::Value;

use super::{Bundle, Rule};
use crate::bundle::{list, text};

pub(super) const RULES: &[Rule] = &[
    ("name", "api csv.go parseCSVNameFormat, good_practices.go checkBundleName", name),
    ("version", "api operatorhub.go checkSpecVersion; semver.org", version),
    ("minKubeVersion", "api operatorhub.go checkSpecMinKubeVersion", min_kube_version),
    ("required fields", "operator-framework.github.io/community-operators/packaging-required-fields", required),
    ("capabilities", "api standardcapabilities.go", capabilities),
    ("categories", "api standardcategories.go", categories),
    ("spelling of annotations", "api annotations.go CaseSensitiveAnnotationKeySet", spelling),
    ("provider", "api operatorhub.go checkSpecProviderName", provider),
    ("maintainers", "api operatorhub.go checkSpecMaintainers", maintainers),
    ("links", "api operatorhub.go checkSpecLinks", links),
    ("icon", "api operatorhub.go checkSpecIcon", icon),
    ("install modes", "api csv.go validateInstallModes", install_modes),
    ("deployments", "api good_practices.go validateResourceRequests", deployments),
    (
        "related images",
        "api bundle.go validateRelatedImages; community: disconnected clusters mirror them",
        related_images,
    ),
    ("webhooks", "olm.operatorframework.io/docs/advanced-tasks/adding-admission-and-conversion-webhooks", webhooks),
];

#[expect(clippy::expect_used, reason = "a literal; every test here compiles it")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a regular expression")
}

/// semver.org's own expression, without build metadata.
static SEMVER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?$",
    )
});
/// RFC 1123 subdomain, as Kubernetes names objects.
static SUBDOMAIN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"));
/// Reference of an image with a tag or a digest, as distribution/reference reads it.
static IMAGE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^[a-z0-9]+([.-][a-z0-9]+)*(:\d+)?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+(:\w[\w.-]{0,127}|@sha256:[0-9a-f]{64})$",
    )
});
static TIME: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"));
static MAIL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+$"));
static URL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^https?://[^\s/]+(/\S*)?$"));

pub(super) fn is_semver(text: &str) -> bool {
    SEMVER.is_match(text)
}

fn unless(good: bool, told: impl FnOnce() -> String) -> Vec<String> {
    if good { Vec::new() } else { vec![told()] }
}

fn annotation<'a>(bundle: &'a Bundle, name: &str) -> &'a str {
    let all = bundle.csv.pointer("/metadata/annotations");
    all.and_then(|a| a.get(name)).and_then(Value::as_str).unwrap_or_default()
}

/// A label's value has 63 characters at most.
fn is_name(name: &str) -> bool {
    name.len() <= 63 && SUBDOMAIN.is_match(name) && name.split_once(".v").is_some_and(|(_, version)| is_semver(version))
}

fn name(bundle: &Bundle) -> Vec<String> {
    let (name, version) = (text(&bundle.csv, "/metadata/name"), text(&bundle.csv, "/spec/version"));
    let mut wrong = unless(is_name(name), || format!("{name:?} is not <operator-name>.v<semver>"));
    wrong.extend(unless(name.ends_with(&format!(".v{version}")), || format!("{name:?} is not of version {version:?}")));
    let replaced = text(&bundle.csv, "/spec/replaces");
    let good = replaced.is_empty() || (is_name(replaced) && replaced != name);
    wrong.extend(unless(good, || format!("replaces {replaced:?}")));
    wrong
}

fn version(bundle: &Bundle) -> Vec<String> {
    let version = text(&bundle.csv, "/spec/version");
    unless(is_semver(version) && version != "0.0.0", || format!("{version:?}"))
}

fn min_kube_version(bundle: &Bundle) -> Vec<String> {
    let version = text(&bundle.csv, "/spec/minKubeVersion");
    unless(is_semver(version), || format!("{version:?} is no semantic version"))
}

fn required(bundle: &Bundle) -> Vec<String> {
    let fields = ["/apiVersion", "/kind", "/spec/displayName", "/spec/description", "/spec/maturity"];
    let mut wrong: Vec<String> = fields
        .iter()
        .filter(|path| text(&bundle.csv, path).is_empty())
        .map(|path| format!("{path} is empty"))
        .collect();
    let annotations = [
        "capabilities",
        "categories",
        "containerImage",
        "createdAt",
        "support",
        "description",
        "repository",
        "alm-examples",
    ];
    let empty = annotations.iter().filter(|name| annotation(bundle, name).is_empty());
    wrong.extend(empty.map(|name| format!("the annotation {name} is empty")));
    wrong.extend(unless(!list(&bundle.csv, "/spec/keywords").is_empty(), || "no keywords".to_owned()));
    let time = annotation(bundle, "createdAt");
    wrong.extend(unless(TIME.is_match(time), || format!("createdAt {time:?} is not yyyy-mm-ddThh:mm:ssZ")));
    let image = annotation(bundle, "containerImage");
    wrong.extend(unless(IMAGE.is_match(image), || format!("containerImage {image:?}")));
    wrong
}

fn capabilities(bundle: &Bundle) -> Vec<String> {
    let level = annotation(bundle, "capabilities");
    let known = ["Basic Install", "Seamless Upgrades", "Full Lifecycle", "Deep Insights", "Auto Pilot"];
    unless(known.contains(&level), || format!("{level:?} is none of {}", known.join(", ")))
}

const CATEGORIES: &[&str] = &[
    "AI/Machine Learning",
    "Application Runtime",
    "Big Data",
    "Cloud Provider",
    "Developer Tools",
    "Database",
    "Integration & Delivery",
    "Logging & Tracing",
    "Monitoring",
    "Modernization & Migration",
    "Networking",
    "OpenShift Optional",
    "Security",
    "Storage",
    "Streaming & Messaging",
    "Observability",
];

fn categories(bundle: &Bundle) -> Vec<String> {
    let all = annotation(bundle, "categories").split(',').map(str::trim);
    all.filter(|name| !CATEGORIES.contains(name)).map(|name| format!("{name:?} is no category")).collect()
}

fn spelling(bundle: &Bundle) -> Vec<String> {
    let known =
        ["olm.skipRange", "olm.operatorGroup", "olm.operatorNamespace", "olm.targetNamespaces", "olm.providedAPIs"];
    let mut wrong = Vec::new();
    for key in bundle.csv.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flat_map(|a| a.keys())
    {
        let meant = known.iter().find(|known| known.eq_ignore_ascii_case(key));
        wrong.extend(meant.filter(|meant| *meant != key).map(|meant| format!("{key} should be {meant}")));
        wrong.extend(unless(key != "olm.properties", || {
            "olm.properties belongs into metadata/properties.yaml".to_owned()
        }));
    }
    wrong
}

fn provider(bundle: &Bundle) -> Vec<String> {
    unless(!text(&bundle.csv, "/spec/provider/name").trim().is_empty(), || "no name".to_owned())
}

fn maintainers(bundle: &Bundle) -> Vec<String> {
    let all = list(&bundle.csv, "/spec/maintainers");
    let bad = all.iter().filter(|m| text(m, "/name").is_empty() || !MAIL.is_match(text(m, "/email")));
    let mut wrong: Vec<String> = bad.map(|m| format!("needs a name and an address: {m}")).collect();
    wrong.extend(unless(!all.is_empty(), || "nobody".to_owned()));
    wrong
}

fn links(bundle: &Bundle) -> Vec<String> {
    let all = list(&bundle.csv, "/spec/links");
    let bad = all.iter().filter(|link| text(link, "/name").is_empty() || !URL.is_match(text(link, "/url")));
    bad.map(|link| format!("needs a name and a URL: {link}")).collect()
}

fn icon(bundle: &Bundle) -> Vec<String> {
    let [icon] = list(&bundle.csv, "/spec/icon") else { return vec!["there is to be one".to_owned()] };
    let kind = text(icon, "/mediatype");
    let known = ["image/gif", "image/jpeg", "image/png", "image/svg+xml"];
    let mut wrong = unless(known.contains(&kind), || format!("{kind:?} is none of {}", known.join(", ")));
    let data = STANDARD.decode(text(icon, "/base64data")).unwrap_or_default();
    let is_svg = String::from_utf8_lossy(&data).trim_start().starts_with("<svg");
    wrong.extend(unless(!data.is_empty() && (kind != "image/svg+xml" || is_svg), || "no data of that kind".to_owned()));
    wrong
}

fn install_modes(bundle: &Bundle) -> Vec<String> {
    let all = list(&bundle.csv, "/spec/installModes");
    let kinds: BTreeSet<&str> = all.iter().map(|mode| text(mode, "/type")).collect();
    let known = BTreeSet::from(["OwnNamespace", "SingleNamespace", "MultiNamespace", "AllNamespaces"]);
    let mut wrong = unless(kinds == known && all.len() == known.len(), || format!("{kinds:?}, not each one once"));
    let any = all.iter().any(|mode| mode.get("supported") == Some(&Value::Bool(true)));
    wrong.extend(unless(any, || "none is supported".to_owned()));
    wrong
}

fn containers(bundle: &Bundle) -> impl Iterator<Item = &Value> {
    list(&bundle.csv, "/spec/install/spec/deployments").iter().flat_map(|d| list(d, "/spec/template/spec/containers"))
}

fn deployments(bundle: &Bundle) -> Vec<String> {
    let mut wrong = unless(containers(bundle).next().is_some(), || "none".to_owned());
    for container in containers(bundle) {
        for what in ["cpu", "memory"] {
            let asked = container.pointer(&format!("/resources/requests/{what}")).is_some();
            wrong.extend(unless(asked, || format!("{} requests no {what}", text(container, "/name"))));
        }
    }
    wrong.extend(unless(text(&bundle.csv, "/spec/install/strategy") == "deployment", || "another strategy".to_owned()));
    wrong
}

fn related_images(bundle: &Bundle) -> Vec<String> {
    let all = list(&bundle.csv, "/spec/relatedImages");
    let bad = all.iter().filter(|i| text(i, "/name").is_empty() || !IMAGE.is_match(text(i, "/image")));
    let mut wrong: Vec<String> = bad.map(|i| format!("{i}")).collect();
    let named: BTreeSet<&str> = all.iter().map(|i| text(i, "/image")).collect();
    let run = containers(bundle).map(|c| text(c, "/image")).chain([annotation(bundle, "containerImage")]);
    wrong.extend(run.filter(|image| !named.contains(image)).map(|image| format!("{image} is run and not named")));
    wrong
}

fn webhooks(bundle: &Bundle) -> Vec<String> {
    let deployed: Vec<&str> =
        list(&bundle.csv, "/spec/install/spec/deployments").iter().map(|d| text(d, "/name")).collect();
    let mut wrong = Vec::new();
    for webhook in list(&bundle.csv, "/spec/webhookdefinitions") {
        let name = text(webhook, "/generateName");
        wrong.extend(unless(deployed.contains(&text(webhook, "/deploymentName")), || {
            format!("{name}: no such deployment")
        }));
        for group in list(webhook, "/rules").iter().flat_map(|rule| list(rule, "/apiGroups")).filter_map(Value::as_str)
        {
            let own = ["*", "operators.coreos.com", "admissionregistration.k8s.io"].contains(&group);
            wrong.extend(unless(!own, || format!("{name}: asks about {group}, which could lock the cluster")));
        }
    }
    wrong
}
