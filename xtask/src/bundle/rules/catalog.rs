//! The file-based catalog: `Validate` of operator-registry's alpha/model/model.go, and that it says what the bundle says.

use serde_json::Value;

use super::version::is_semver;
use super::{Bundle, Rule};
use crate::bundle::csv::owned_kinds;
use crate::bundle::{list, text};

pub(super) const RULES: &[Rule] = &[
    ("catalog", "operator-registry alpha/model/model.go Validate", blobs),
    (
        "upgrades",
        "olm.operatorframework.io/docs/concepts/olm-architecture/operator-catalog/creating-an-update-graph",
        upgrades,
    ),
    ("properties", "operator-registry alpha/model/model.go Bundle.Validate, alpha/property", properties),
];

fn of<'a>(bundle: &'a Bundle, schema: &str) -> Vec<&'a Value> {
    bundle.catalog.iter().filter(|blob| text(blob, "/schema") == schema).collect()
}

fn blobs(bundle: &Bundle) -> Vec<String> {
    let (packages, channels, bundles) =
        (of(bundle, "olm.package"), of(bundle, "olm.channel"), of(bundle, "olm.bundle"));
    let [package] = packages.as_slice() else { return vec![format!("{} packages, not one", packages.len())] };
    let name = text(package, "/name");
    let mut wrong = Vec::new();
    let default = text(package, "/defaultChannel");
    if !channels.iter().any(|channel| text(channel, "/name") == default) {
        wrong.push(format!("the default channel {default:?} is none of the channels"));
    }
    if list(&bundle.csv, "/spec/icon").first() != package.get("icon") {
        wrong.push("another icon than the version's".to_owned());
    }
    for blob in channels.iter().chain(&bundles) {
        if text(blob, "/package") != name || text(blob, "/name").is_empty() {
            wrong.push(format!("{} {:?} is not of package {name:?}", text(blob, "/schema"), text(blob, "/name")));
        }
    }
    let version = text(&bundle.csv, "/metadata/name");
    if !bundles.iter().any(|b| text(b, "/name") == version && !text(b, "/image").is_empty()) {
        wrong.push(format!("no bundle {version} with an image"));
    }
    wrong
}

/// A channel is a chain with one head, and that is the version of the bundle.
fn upgrades(bundle: &Bundle) -> Vec<String> {
    let mut wrong = Vec::new();
    let version = text(&bundle.csv, "/metadata/name");
    for channel in of(bundle, "olm.channel") {
        let entries = list(channel, "/entries");
        let replaced: Vec<&str> = entries.iter().map(|e| text(e, "/replaces")).filter(|r| !r.is_empty()).collect();
        let heads: Vec<&str> = entries.iter().map(|e| text(e, "/name")).filter(|n| !replaced.contains(n)).collect();
        if heads != [version] {
            wrong.push(format!("{}: the heads are {heads:?}, not {version}", text(channel, "/name")));
        }
        for entry in entries {
            let range = text(entry, "/skipRange");
            let own = text(entry, "/name").split_once(".v").map_or("", |(_, own)| own);
            // the entry itself is no upgrade to itself
            if !range.is_empty() && (range != format!("<{own}") || !is_semver(own)) {
                wrong.push(format!("skipRange {range:?} of {}", text(entry, "/name")));
            }
        }
        let entry = entries.iter().find(|e| text(e, "/name") == version);
        let in_csv = bundle.csv.pointer("/metadata/annotations").and_then(|a| a.get("olm.skipRange"));
        if entry.and_then(|e| e.get("skipRange")) != in_csv
            || entry.and_then(|e| e.get("replaces")) != bundle.csv.pointer("/spec/replaces")
        {
            wrong.push("other upgrades than the version's".to_owned());
        }
    }
    wrong
}

fn properties(bundle: &Bundle) -> Vec<String> {
    let mut wrong = Vec::new();
    for blob in of(bundle, "olm.bundle") {
        let of_type = |kind: &'static str| {
            list(blob, "/properties").iter().filter(move |p| text(p, "/type") == kind).filter_map(|p| p.get("value"))
        };
        let packages: Vec<&Value> = of_type("olm.package").collect();
        let [package] = packages.as_slice() else {
            wrong.push("must be exactly one property olm.package".to_owned());
            continue;
        };
        if package.get("version") != bundle.csv.pointer("/spec/version")
            || package.get("packageName") != blob.get("package")
        {
            wrong.push(format!("olm.package {package}"));
        }
        let kinds: Vec<_> = of_type("olm.gvk")
            .map(|v| (text(v, "/group").to_owned(), text(v, "/version").to_owned(), text(v, "/kind").to_owned()))
            .collect();
        if kinds != owned_kinds(&bundle.csv) {
            wrong.push(format!("olm.gvk {kinds:?}"));
        }
        if of_type("olm.csv.metadata").count() != 1 {
            wrong.push("must be one property olm.csv.metadata".to_owned());
        }
        if blob.get("relatedImages") != bundle.csv.pointer("/spec/relatedImages") {
            wrong.push("other related images than the version's".to_owned());
        }
    }
    wrong
}
