//! What no archive may hold, taken out on the way.
//!
//! Two rules. Where a name says that its value is a secret (`password`, `token`, a key of an environment variable), the
//! value goes, whatever it looks like. Anywhere else goes what looks like one: private keys in PEM, also as Base64 of it,
//! JSON Web Tokens, credentials of `Authorization` headers and of URLs, `password=…`.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};
use serde_json::Value;

/// In the place of what was taken out.
pub const GONE: &str = "[REDACTED]";

/// Names whose values are secrets. Not among them: what names a secret (`secretName`), or a key in a map of labels.
static NAMES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let words = "pass(word|wd|phrase)|secret|token|api[-_.]?key|private[-_.]?key|access[-_.]?key|credentials?|authorization|cookie|(?:^|[-_.])key";
    Regex::new(&format!("(?i)(?:{words})$")).ok()
});

/// Texts that are secrets, whatever they stand in; what is in front of one stays (`front`).
static TEXTS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let patterns = [
        // PEM, in its lines or behind escapes; one that is cut off goes to the end
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
        // the same as Base64: "-----BEGIN " at each of the three offsets
        r"(?:LS0tLS1CRUdJTi|0tLS0tQkVHSU4g|tLS0tLUJFR0lOI)[A-Za-z0-9+/=_\-]+",
        // RFC 7519: a header is a JSON object
        r"eyJ[A-Za-z0-9_\-]{5,}\.[A-Za-z0-9_\-]{2,}(?:\.[A-Za-z0-9_\-]*)*",
        r"(?i)(?P<auth>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=\-]{6,}",
        r"(?P<url>[a-z][a-z0-9+.\-]*://)[^\s/@:]*:[^\s/@]+@",
        r#"(?i)(?P<said>\b[\w.\-]*(?:password|passwd|passphrase|secret|token|api[-_]?key|private[-_]?key|access[-_]?key|authorization)\\?["']?\s*[:=]\s*\\?["']?(?:(?:bearer|basic)\s+)?)[^\s"'\\,;&}]{3,}"#,
    ];
    Regex::new(&patterns.map(|p| format!("(?:{p})")).join("|")).ok()
});

/// A text without what looks like a secret, and how many were taken out.
#[must_use]
pub fn text(text: &str) -> (String, u64) {
    let mut count = 0;
    let clean = scan(text, &mut count);
    (clean.into_owned(), count)
}

fn scan<'t>(text: &'t str, count: &mut u64) -> Cow<'t, str> {
    // without its patterns nothing may pass
    let Some(pattern) = TEXTS.as_ref() else {
        *count += 1;
        return Cow::Borrowed(GONE);
    };
    pattern.replace_all(text, |found: &Captures<'_>| {
        *count += 1;
        let front = ["auth", "url", "said"].into_iter().find_map(|name| found.name(name)).map_or("", |m| m.as_str());
        let back = if found.name("url").is_some() { "@" } else { "" };
        format!("{front}{GONE}{back}")
    })
}

/// Takes secrets out of an object, and returns how many there were. What only repeats the object goes as well: managed
/// fields, and the copy that `kubectl apply` keeps.
pub fn object(object: &mut Value) -> u64 {
    if object.get("kind").and_then(Value::as_str) == Some("Secret") {
        let fields = object.as_object_mut();
        let gone = fields.map(|f| [f.remove("data"), f.remove("stringData")].into_iter().flatten().count());
        return gone.unwrap_or_default() as u64;
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(notes) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            notes.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    walk(object)
}

fn walk(value: &mut Value) -> u64 {
    match value {
        Value::String(text) => {
            let mut count = 0;
            let clean = scan(text, &mut count).into_owned();
            *text = clean;
            count
        }
        Value::Array(items) => items.iter_mut().map(walk).sum(),
        Value::Object(fields) => {
            // `{name: API_TOKEN, value: …}`: environment variables, and whatever else is written so
            let named = fields.get("name").and_then(Value::as_str).is_some_and(is_secret);
            let mut count = 0;
            for (key, value) in fields.iter_mut() {
                let secret = named && key == "value" || is_secret(key);
                match value {
                    Value::String(text) if secret && !text.is_empty() && !is_place(key, text) => {
                        GONE.clone_into(text);
                        count += 1;
                    }
                    other => count += walk(other),
                }
            }
            count
        }
        _ => 0,
    }
}

fn is_secret(name: &str) -> bool {
    NAMES.as_ref().is_none_or(|names| names.is_match(name))
}

/// A `key` of a selector or a taint is a name (`key: app`), and so are fields of references.
fn is_place(key: &str, text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    key == "key" && text.len() <= 317 && text.chars().all(name) && scan(text, &mut 0) == text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cleaned(input: &str) -> String {
        text(input).0
    }

    #[test]
    fn what_looks_like_a_secret_goes_and_the_rest_stays() {
        for (input, output) in [
            ("connected to 10.0.0.1:6443 in 3 ms", "connected to 10.0.0.1:6443 in 3 ms"),
            ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [REDACTED]"),
            ("sent Bearer abcdef.ghi", "sent Bearer [REDACTED]"),
            ("http://me:hunter2@host/x", "http://[REDACTED]@host/x"),
            ("retry password=hunter2, next", "retry password=[REDACTED], next"),
            (r#"{"token":"s3cret-value","n":1}"#, r#"{"token":"[REDACTED]","n":1}"#),
            (r#"{\"db_password\": \"hunter22\"}"#, r#"{\"db_password\": \"[REDACTED]\"}"#),
            ("a -----BEGIN EC PRIVATE KEY-----\nMHc\nCAQ\n-----END EC PRIVATE KEY----- b", "a [REDACTED] b"),
            ("cut -----BEGIN PRIVATE KEY-----\nMHcCAQ", "cut [REDACTED]"),
            ("key LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCk1I end", "key [REDACTED] end"),
            ("t eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrIn0.c2ln end", "t [REDACTED] end"),
            (
                "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
                "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
            ),
            ("the secret axoneme-ca is not there", "the secret axoneme-ca is not there"),
        ] {
            assert_eq!(cleaned(input), output, "{input}");
        }
    }

    #[test]
    fn values_of_secret_names_go_whatever_they_look_like() {
        let mut object = json!({
            "kind": "Pod",
            "metadata": {"annotations": {"example.com/api-key": "opaque", "kubectl.kubernetes.io/last-applied-configuration": "x"},
                "managedFields": [1]},
            "spec": {"containers": [{"env": [{"name": "DB_PASSWORD", "value": "opaque"}, {"name": "MODE", "value": "fast"}]}],
                "volumes": [{"secret": {"secretName": "tls"}}],
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]},
        });
        assert_eq!(super::object(&mut object), 2);
        assert_eq!(object["metadata"]["annotations"], json!({"example.com/api-key": GONE}));
        assert_eq!(object["spec"]["containers"][0]["env"][0]["value"], GONE);
        assert_eq!(object["spec"]["containers"][0]["env"][1]["value"], "fast");
        assert_eq!(object["spec"]["volumes"][0]["secret"]["secretName"], "tls");
        assert_eq!(object["spec"]["tolerations"][0]["key"], "node.kubernetes.io/not-ready");
        let mut secret = json!({"kind": "Secret", "data": {"a": "b"}, "stringData": {"c": "d"}});
        assert_eq!((super::object(&mut secret), secret), (2, json!({"kind": "Secret"})));
    }
}
