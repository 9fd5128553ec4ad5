//! What is said when there is no answer: `v1/Status`.

use http::StatusCode;
use serde_json::{Value, json};

/// A `Status` with `status: Failure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: StatusCode,
    /// Machine-readable, as in `metav1.StatusReason`.
    pub reason: &'static str,
    pub message: String,
    /// Seconds after which it is worth trying again.
    pub retry_after: Option<u32>,
}

impl Refusal {
    const fn new(code: StatusCode, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, retry_after: None }
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message.into())
    }

    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message.into())
    }

    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized".to_owned())
    }

    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message.into())
    }

    /// No such object.
    #[must_use]
    pub fn not_found(resource: &str, name: &str) -> Self {
        let message = format!("{resource}.{} \"{name}\" not found", crate::GROUP);
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// No such path.
    #[must_use]
    pub fn no_path() -> Self {
        let message = "the server could not find the requested resource".to_owned();
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    #[must_use]
    pub fn method(method: &http::Method) -> Self {
        let message = format!("{method} is not supported: views are read (GET), and nothing else");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    #[must_use]
    pub fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, \
                       application/json;as=Table;v=v1;g=meta.k8s.io, \
                       application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io, \
                       application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message.to_owned())
    }

    /// A version that is not, or no more, one of this replica's.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message.into())
    }

    /// Not now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message.into());
        Self { retry_after: Some(1), ..refusal }
    }

    #[must_use]
    pub fn too_many(message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message.into());
        Self { retry_after: Some(1), ..refusal }
    }

    /// The `Status` object.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        if let (Some(seconds), Some(status)) = (self.retry_after, status.as_object_mut()) {
            status.insert("details".into(), json!({"retryAfterSeconds": seconds}));
        }
        status
    }
}
