//! `admission.k8s.io/v1` AdmissionReview with a request, as far as it is read.

use serde_json::Value;

/// What is done with the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What the API server asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Goes back in the answer.
    pub uid: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    /// `status`, `scale`; empty for the object itself.
    pub sub_resource: String,
    /// Empty where the API server is to make one up.
    pub name: String,
    /// Empty for kinds of the cluster.
    pub namespace: String,
    pub operation: Operation,
    /// The object as it would be stored; null on DELETE.
    pub object: Value,
    /// The object as it is stored; null on CREATE.
    pub old_object: Value,
}

impl Request {
    /// `group/version`, or `version` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// Why a body is no review that can be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not even whom to answer can be read.
    #[error("{0}")]
    NoReview(String),
    /// The answer to this uid is that the request can't be understood.
    #[error("{message}")]
    BadRequest { uid: String, message: String },
}

const VERSION: &str = "admission.k8s.io/v1";
/// Uids are 36 characters; a longer text is none, and is not echoed.
const UID: usize = 256;

/// Reads the body of a call.
pub fn read(body: &[u8]) -> Result<Request, Malformed> {
    let no_review = |message: String| Malformed::NoReview(message);
    let mut review: Value = serde_json::from_slice(body).map_err(|e| no_review(format!("body is no JSON: {e}")))?;
    let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text(&review, "apiVersion"), text(&review, "kind"));
    if (version.as_str(), kind.as_str()) != (VERSION, "AdmissionReview") {
        return Err(no_review(format!(
            "body must be an AdmissionReview of {VERSION}, not {kind:.64?} of {version:.64?}"
        )));
    }
    let Some(request) = review.get_mut("request").filter(|r| r.is_object()) else {
        return Err(no_review("request: is required and must be an object".to_owned()));
    };
    let uid = text(request, "uid");
    if uid.is_empty() || uid.len() > UID {
        return Err(no_review(format!("request.uid: must be a string of 1 to {UID} bytes")));
    }
    match fields(request, &uid) {
        Ok(request) => Ok(request),
        Err(message) => Err(Malformed::BadRequest { uid, message }),
    }
}

fn fields(request: &mut Value, uid: &str) -> Result<Request, String> {
    let kind = request.get("kind").filter(|k| k.is_object()).cloned();
    let kind = kind.ok_or("request.kind: is required and must be an object")?;
    let part = |name: &str| optional(&kind, name).map_err(|e| format!("request.kind.{e}"));
    let (group, version, kind) = (part("group")?, part("version")?, part("kind")?);
    for (name, value) in [("version", &version), ("kind", &kind)] {
        if value.is_empty() {
            return Err(format!("request.kind.{name}: is required"));
        }
    }
    let plain = |name: &str| optional(request, name).map_err(|e| format!("request.{e}"));
    let (sub_resource, name, namespace) = (plain("subResource")?, plain("name")?, plain("namespace")?);
    let operation = match request.get("operation").and_then(Value::as_str) {
        Some("CREATE") => Operation::Create,
        Some("UPDATE") => Operation::Update,
        Some("DELETE") => Operation::Delete,
        Some("CONNECT") => Operation::Connect,
        _ => return Err("request.operation: must be one of CREATE, UPDATE, DELETE, CONNECT".to_owned()),
    };
    let mut object = |name: &str| {
        let value = request.get_mut(name).map(Value::take).unwrap_or_default();
        if value.is_object() || value.is_null() { Ok(value) } else { Err(format!("request.{name}: must be an object")) }
    };
    let (object, old_object) = (object("object")?, object("oldObject")?);
    let needs_object = matches!(operation, Operation::Create | Operation::Update);
    if needs_object && object.is_null() && sub_resource.is_empty() {
        return Err("request.object: is required for CREATE and UPDATE".to_owned());
    }
    let uid = uid.to_owned();
    Ok(Request { uid, group, version, kind, sub_resource, name, namespace, operation, object, old_object })
}

fn optional(of: &Value, name: &str) -> Result<String, String> {
    match of.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("{name}: must be a string")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut review = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "request": {
            "uid": "u1", "kind": {"group": "cilium.io", "version": "v2", "kind": "CiliumCIDRGroup"},
            "name": "g", "operation": "CREATE", "object": {"metadata": {"name": "g"}}, "oldObject": null,
            "dryRun": true, "options": {"kind": "CreateOptions"}, "userInfo": {"username": "me"}}});
        change(&mut review);
        review.to_string().into_bytes()
    }

    #[test]
    fn a_review_is_read() {
        let request = read(&body(|_| {})).unwrap();
        assert_eq!((request.uid.as_str(), request.operation), ("u1", Operation::Create));
        assert_eq!(request.api_version(), "cilium.io/v2");
        assert_eq!(request.object, json!({"metadata": {"name": "g"}}));
        assert!(request.old_object.is_null() && request.namespace.is_empty());
    }

    #[test]
    fn who_can_not_be_answered_is_told_why() {
        for (bad, told) in [
            (b"{".to_vec(), "no JSON"),
            (b"[]".to_vec(), "must be an AdmissionReview"),
            (body(|r| r["apiVersion"] = "admission.k8s.io/v1beta1".into()), "v1beta1"),
            (body(|r| r["kind"] = "Pod".into()), "\"Pod\""),
            (body(|r| r["request"] = Value::Null), "request: is required"),
            (body(|r| r["request"]["uid"] = 7.into()), "request.uid"),
            (body(|r| r["request"]["uid"] = "x".repeat(257).into()), "request.uid"),
        ] {
            let Err(Malformed::NoReview(message)) = read(&bad) else { panic!("{told}") };
            assert!(message.contains(told), "{message}");
        }
    }

    #[test]
    fn a_bad_request_is_answered_by_its_uid() {
        for (bad, told) in [
            (body(|r| r["request"]["kind"] = "CiliumCIDRGroup".into()), "request.kind: is required"),
            (body(|r| r["request"]["kind"]["version"] = Value::Null), "request.kind.version: is required"),
            (body(|r| r["request"]["kind"]["kind"] = json!(1)), "request.kind.kind: must be a string"),
            (body(|r| r["request"]["operation"] = "PATCH".into()), "CREATE, UPDATE, DELETE, CONNECT"),
            (body(|r| r["request"]["object"] = Value::Null), "request.object: is required"),
            (body(|r| r["request"]["object"] = json!([])), "request.object: must be an object"),
            (body(|r| r["request"]["name"] = json!({})), "request.name: must be a string"),
        ] {
            let Err(Malformed::BadRequest { uid, message }) = read(&bad) else { panic!("{told}") };
            assert_eq!(uid, "u1");
            assert!(message.contains(told), "{message}");
        }
    }
}
