//! What is asked: a path and its query, read once into what can't be wrong.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use percent_encoding::percent_decode_str;

use crate::{
    page::Token,
    refusal::Refusal,
    resource::{self, GROUP, Resource, VERSION},
    selector::{FieldSelector, LabelSelector},
    store::Scope,
};

/// A watch ends after so long, and who watches begins anew from where it was.
const LONGEST_WATCH: Duration = Duration::from_mins(30);
/// Parameters of a query that are looked at.
const PARAMETERS: usize = 64;

/// Where a path leads.
#[derive(Clone, Debug)]
pub enum Path {
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/apis`.
    Groups,
    /// `/apis/views.axoneme.io`.
    Group,
    /// `/apis/views.axoneme.io/v1alpha1`.
    Version,
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/apis/views.axoneme.io/v1alpha1`.
    OpenApiV3,
    Resource(Target),
}

/// A resource, or one object of it.
#[derive(Clone, Debug)]
pub struct Target {
    pub resource: &'static Resource,
    /// None: of all namespaces, or of none.
    pub namespace: Option<Arc<str>>,
    pub name: Option<Arc<str>>,
}

/// Reads a path.
pub fn path(path: &str) -> Result<Path, Refusal> {
    let trimmed = path.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(path);
    let decoded: Option<Vec<String>> =
        trimmed.strip_prefix('/').ok_or_else(Refusal::no_path)?.split('/').map(segment).collect();
    let segments = decoded.ok_or_else(Refusal::no_path)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match *segments {
        ["healthz" | "livez" | "readyz"] => Ok(Path::Health),
        ["apis"] => Ok(Path::Groups),
        ["apis", GROUP] => Ok(Path::Group),
        ["apis", GROUP, VERSION] => Ok(Path::Version),
        ["openapi", "v2"] => Ok(Path::OpenApiV2),
        ["openapi", "v3"] => Ok(Path::OpenApiIndex),
        ["openapi", "v3", "apis", GROUP, VERSION] => Ok(Path::OpenApiV3),
        ["apis", GROUP, VERSION, plural] => target(plural, None, None),
        ["apis", GROUP, VERSION, plural, name] => target(plural, None, Some(name)),
        ["apis", GROUP, VERSION, "namespaces", namespace, plural] => target(plural, Some(namespace), None),
        ["apis", GROUP, VERSION, "namespaces", namespace, plural, name] => target(plural, Some(namespace), Some(name)),
        _ => Err(Refusal::no_path()),
    }
}

/// One segment without its escapes; none if it is empty, or holds what no name can.
fn segment(text: &str) -> Option<String> {
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    let fits = !decoded.is_empty() && decoded.len() <= 253;
    (fits && !decoded.contains(['/', '%', '\0'])).then(|| decoded.into_owned())
}

fn target(plural: &str, namespace: Option<&str>, name: Option<&str>) -> Result<Path, Refusal> {
    let resource = resource::find(plural).ok_or_else(Refusal::no_path)?;
    let fits = match (resource.namespaced, namespace, name) {
        (true, None, Some(_)) | (false, Some(_), _) => false,
        (true, ..) | (false, None, _) => true,
    };
    if !fits {
        return Err(Refusal::no_path());
    }
    Ok(Path::Resource(Target { resource, namespace: namespace.map(Into::into), name: name.map(Into::into) }))
}

/// What to show of an object beside the cells of its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

/// Which objects, and how.
#[derive(Clone, Debug)]
pub struct Query {
    pub scope: Scope,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub include: Include,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    List {
        /// 0: all.
        limit: usize,
        from: Option<Token>,
        /// Only if the newest version is this one.
        exactly: Option<u64>,
    },
    Watch {
        begin: Begin,
        bookmarks: bool,
        timeout: Duration,
    },
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With what is there. `told`: a bookmark says when that is through.
    State {
        told: bool,
    },
    /// Behind this version.
    Behind(u64),
    Now,
}

/// Whether the query asks for a watch.
#[must_use]
pub fn is_watch(query: &str) -> bool {
    flag(parameters(query).get("watch")).unwrap_or(false)
}

/// Reads a query about a target.
pub fn query(target: &Target, query: &str) -> Result<Query, Refusal> {
    let given = parameters(query);
    let text = |name: &str| given.get(name).map(String::as_str).filter(|v| !v.is_empty());
    let labels = LabelSelector::parse(text("labelSelector").unwrap_or_default())
        .map_err(|e| Refusal::bad_request(format!("unable to parse labelSelector: {e}")))?;
    let known = |field: &str| target.resource.has_field(field);
    let fields = FieldSelector::parse(text("fieldSelector").unwrap_or_default(), known)
        .map_err(|e| Refusal::bad_request(format!("{e}; there are {}", target.resource.field_names())))?;
    let include = match text("includeObject") {
        None | Some("Metadata") => Include::Metadata,
        Some("None") => Include::None,
        Some("Object") => Include::Object,
        Some(other) => {
            return Err(Refusal::bad_request(format!("includeObject is None, Metadata or Object, not {other:?}")));
        }
    };
    let scope = target.namespace.clone().map_or(Scope::All, Scope::Namespace);
    let what = if is_watch(query) { watch(&given)? } else { list(&given, target.resource)? };
    Ok(Query { scope, labels, fields, include, what })
}

fn list(given: &Given, resource: &Resource) -> Result<What, Refusal> {
    let text = |name: &str| given.get(name).map(String::as_str).filter(|v| !v.is_empty());
    let limit: i64 = number(given, "limit")?.unwrap_or(0);
    let limit = usize::try_from(limit).map_err(|_| Refusal::bad_request(format!("limit: {limit} is negative")))?;
    let from = text("continue").map(|t| Token::parse(t, resource.plural)).transpose()?;
    let version = version(given)?;
    let exactly = match (text("resourceVersionMatch"), version) {
        (None | Some("NotOlderThan"), _) if from.is_some() && version.is_some_and(|v| v != 0) => {
            return Err(Refusal::bad_request("specifying resource version is not allowed when using continue"));
        }
        (Some(_), _) if from.is_some() => {
            return Err(Refusal::invalid("resourceVersionMatch: Forbidden: it is not allowed when using continue"));
        }
        (Some(_), None) => {
            return Err(Refusal::invalid("resourceVersionMatch: Forbidden: it is not allowed without resourceVersion"));
        }
        // what is read is as new as anything that was given out here
        (None | Some("NotOlderThan"), _) => None,
        (Some("Exact"), Some(0)) => {
            return Err(Refusal::invalid("resourceVersionMatch: Forbidden: Exact is not allowed with version \"0\""));
        }
        (Some("Exact"), Some(v)) => Some(v),
        (Some(other), _) => {
            let told = format!("resourceVersionMatch: Unsupported value: {other:?}: Exact, NotOlderThan");
            return Err(Refusal::invalid(told));
        }
    };
    Ok(What::List { limit, from, exactly })
}

fn watch(given: &Given) -> Result<What, Refusal> {
    let bookmarks = flag(given.get("allowWatchBookmarks")).unwrap_or(false);
    let initial = flag(given.get("sendInitialEvents"));
    let how = given.get("resourceVersionMatch").map(String::as_str).filter(|v| !v.is_empty());
    match (initial, how) {
        (Some(_), Some("NotOlderThan")) | (None, None) => {}
        (Some(_), _) => {
            let told = "sendInitialEvents: Forbidden: resourceVersionMatch must be NotOlderThan with it";
            return Err(Refusal::invalid(told));
        }
        (None, Some(_)) => {
            return Err(Refusal::invalid("resourceVersionMatch: Forbidden: it is not allowed for watch"));
        }
    }
    let begin = match (initial, version(given)?) {
        (Some(true), _) => Begin::State { told: bookmarks },
        (Some(false), None | Some(0)) => Begin::Now,
        (None, None | Some(0)) => Begin::State { told: false },
        (_, Some(version)) => Begin::Behind(version),
    };
    let seconds: Option<i64> = number(given, "timeoutSeconds")?;
    let wanted = seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).map(Duration::from_secs);
    Ok(What::Watch { begin, bookmarks, timeout: wanted.unwrap_or(LONGEST_WATCH).min(LONGEST_WATCH) })
}

/// The version, if one is given. 0: any.
fn version(given: &Given) -> Result<Option<u64>, Refusal> {
    let text = given.get("resourceVersion").map(String::as_str).filter(|v| !v.is_empty());
    let read = text.map(|t| t.parse().map_err(|_| Refusal::bad_request(format!("invalid resource version: {t:?}"))));
    read.transpose()
}

fn number(given: &Given, name: &str) -> Result<Option<i64>, Refusal> {
    let text = given.get(name).map(String::as_str).filter(|v| !v.is_empty());
    text.map(|t| t.parse().map_err(|_| Refusal::bad_request(format!("{name}: {t:?} is no integer")))).transpose()
}

/// As apimachinery reads booleans of a query.
fn flag(value: Option<&String>) -> Option<bool> {
    value.map(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
}

type Given = BTreeMap<String, String>;

/// The first value of each parameter.
fn parameters(query: &str) -> Given {
    let mut given = Given::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()).take(PARAMETERS) {
        given.entry(name.into_owned()).or_insert_with(|| value.into_owned());
    }
    given
}

#[cfg(test)]
mod tests;
