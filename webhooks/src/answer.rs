//! AdmissionReview with a response.

use axoneme_intake::FieldError;
use serde_json::{Value, json};

use crate::request::Request;

/// Causes that one answer names; more are counted.
const CAUSES: usize = 100;
/// Bytes of the message.
const MESSAGE: usize = 8 * 1024;
/// Warnings of one answer, and characters of each: the API server cuts what is longer (256 each, 4096 in all).
const WARNINGS: usize = 15;
const WARNING: usize = 250;

/// What the API server is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub uid: String,
    /// None: allowed.
    pub denial: Option<Denial>,
    /// For the person at the other end of the API server; each is one line.
    pub warnings: Vec<String>,
}

/// Why not: the parts of a `metav1.Status`.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    /// 422 Invalid, 403 Forbidden, 400 BadRequest.
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub group: String,
    pub kind: String,
    pub name: String,
    /// Every wrong field.
    pub causes: Vec<Value>,
}

impl Response {
    pub(crate) fn allow(uid: &str) -> Self {
        Self { uid: uid.to_owned(), denial: None, warnings: Vec::new() }
    }

    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }

    /// The answer to a request that can't be understood.
    #[must_use]
    pub fn bad_request(uid: &str, message: &str) -> Self {
        let denial = Denial {
            code: 400,
            reason: "BadRequest",
            message: message.to_owned(),
            group: String::new(),
            kind: String::new(),
            name: String::new(),
            causes: Vec::new(),
        };
        Self { uid: uid.to_owned(), denial: Some(denial), warnings: Vec::new() }
    }

    pub(crate) fn invalid(request: &Request, errors: &[&FieldError]) -> Self {
        let told = if request.name.is_empty() { "(no name)" } else { &request.name };
        let (place, slash) = (&request.namespace, if request.namespace.is_empty() { "" } else { "/" });
        let fields: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let fields = match fields.as_slice() {
            [one] => one.clone(),
            many => format!("{} fields are wrong: {}", many.len(), many.join("; ")),
        };
        let mut causes: Vec<Value> = errors.iter().take(CAUSES).map(|e| cause(e)).collect();
        if errors.len() > CAUSES {
            let message = format!("and {} more", errors.len() - CAUSES);
            causes.push(json!({"reason": "FieldValueInvalid", "message": message, "field": ""}));
        }
        let message = cut(format!("{} {place}{slash}{told}: {fields}", request.kind), MESSAGE);
        Self::denied(request, 422, "Invalid", message, causes)
    }

    pub(crate) fn forbidden(request: &Request, message: String) -> Self {
        Self::denied(request, 403, "Forbidden", message, Vec::new())
    }

    fn denied(request: &Request, code: u16, reason: &'static str, message: String, causes: Vec<Value>) -> Self {
        let (group, kind, name) = (request.group.clone(), request.kind.clone(), request.name.clone());
        let denial = Denial { code, reason, message, group, kind, name, causes };
        Self { uid: request.uid.clone(), denial: Some(denial), warnings: Vec::new() }
    }

    /// With warnings, no more and no longer than the API server hands on.
    pub(crate) fn warn(mut self, warnings: Vec<String>) -> Self {
        let more = warnings.len().saturating_sub(WARNINGS);
        self.warnings.extend(warnings.into_iter().take(WARNINGS).map(|w| shorten(&w)));
        if more > 0 {
            self.warnings.push(format!("and {more} more warnings"));
        }
        self
    }

    /// The review that goes back.
    #[must_use]
    pub fn to_review(&self) -> Value {
        let mut response = json!({"uid": self.uid, "allowed": self.is_allowed()});
        if let (Some(map), false) = (response.as_object_mut(), self.warnings.is_empty()) {
            map.insert("warnings".into(), json!(self.warnings));
        }
        if let (Some(map), Some(d)) = (response.as_object_mut(), &self.denial) {
            let mut details = json!({"group": d.group, "kind": d.kind, "name": d.name, "causes": d.causes});
            if let Some(details) = details.as_object_mut() {
                details.retain(|_, v| v != "" && v.as_array().is_none_or(|a| !a.is_empty()));
            }
            let status = json!({"metadata": {}, "status": "Failure", "code": d.code, "reason": d.reason,
                "message": d.message, "details": details});
            map.insert("status".into(), status);
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }
}

/// A `metav1.StatusCause`, in the words of the API server's own validation.
fn cause(error: &FieldError) -> Value {
    let (reason, message) = match &error.value {
        Some(value) => ("FieldValueInvalid", format!("Invalid value: {value}: {}", error.message)),
        None => ("FieldValueRequired", format!("Required value: {}", error.message)),
    };
    json!({"reason": reason, "message": message, "field": error.path})
}

/// One line of at most [`WARNING`] characters.
fn shorten(text: &str) -> String {
    let line = text.replace(|c: char| c.is_control(), " ");
    if line.chars().count() <= WARNING { line } else { line.chars().take(WARNING - 1).chain(['…']).collect() }
}

fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push('…');
    }
    text
}
