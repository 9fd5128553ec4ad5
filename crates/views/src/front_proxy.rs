//! Whom the API server says a request is from: headers beside its front-proxy client certificate.
//!
//! What certificate and which headers, the API server tells in ConfigMap `kube-system/extension-apiserver-authentication`
//! (its flags `--requestheader-*`). A header counts only where the connection showed a certificate that this authority
//! signed, for client use, with a common name that is allowed.

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use crate::access::User;

/// Where the API server tells it.
pub const NAMESPACE: &str = "kube-system";
/// The ConfigMap.
pub const NAME: &str = "extension-apiserver-authentication";

/// What the API server tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontProxy {
    /// Authority of the certificate, PEM.
    pub authority: String,
    /// Common names; empty: any.
    pub allowed: Vec<String>,
    user: Vec<String>,
    uid: Vec<String>,
    groups: Vec<String>,
    extra: Vec<String>,
}

impl FrontProxy {
    /// Reads the data of the ConfigMap. The error names what is missing.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, String> {
        let list = |key: &str| match data.get(key).map(|t| t.trim()).filter(|t| !t.is_empty()) {
            None => Ok(Vec::new()),
            Some(text) => serde_json::from_str::<Vec<String>>(text).map_err(|e| format!("{NAME}: {key}: {e}")),
        };
        let authority = data.get("requestheader-client-ca-file").cloned().unwrap_or_default();
        let user = list("requestheader-username-headers")?;
        if authority.trim().is_empty() || user.is_empty() {
            return Err(format!(
                "{NAME} names no front proxy (requestheader-client-ca-file, requestheader-username-headers): does the API \
                 server run with --requestheader-client-ca-file?"
            ));
        }
        Ok(Self {
            authority,
            allowed: list("requestheader-allowed-names")?,
            user,
            uid: list("requestheader-uid-headers")?,
            groups: list("requestheader-group-headers")?,
            extra: list("requestheader-extra-headers-prefix")?,
        })
    }

    /// Whether a certificate of this common name speaks for others. Its signature was verified before.
    #[must_use]
    pub fn allows(&self, common_name: &str) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|a| a == common_name)
    }

    /// Whom the headers name. None: nobody.
    #[must_use]
    pub fn user(&self, headers: &HeaderMap) -> Option<User> {
        let values = |name: &String| headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
        let first = |names: &[String]| names.iter().flat_map(values).find(|v| !v.is_empty()).map(str::to_owned);
        let name = first(&self.user)?;
        let groups = self.groups.iter().flat_map(values).map(str::to_owned).collect();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in self.extra.iter().map(|p| p.to_ascii_lowercase()) {
            // names of headers are in lower case here
            for (header, value) in headers {
                let key = header.as_str().strip_prefix(&prefix).filter(|k| !k.is_empty());
                let (Some(key), Ok(value)) = (key, value.to_str()) else { continue };
                let key = percent_decode_str(key).decode_utf8_lossy().to_ascii_lowercase();
                extra.entry(key).or_default().push(value.to_owned());
            }
        }
        let user = User { name, uid: first(&self.uid).unwrap_or_default(), groups, extra };
        Some(user.authenticated())
    }
}

/// Common name of a certificate, DER; none if it has none, or more than one.
#[must_use]
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name().map(|n| n.as_str().map(str::to_owned));
    match (names.next(), names.next()) {
        (Some(Ok(name)), None) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// As kubeadm's API server writes it.
    fn data(change: impl FnOnce(&mut BTreeMap<String, String>)) -> BTreeMap<String, String> {
        let pairs = [
            ("client-ca-file", "…"),
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-client-ca-file", "-----BEGIN CERTIFICATE-----"),
            ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ];
        let mut data = pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        change(&mut data);
        data
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(k, v): &(&str, &str)| -> (HeaderName, HeaderValue) { (k.parse().unwrap(), v.parse().unwrap()) };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn a_user_is_read_with_all_groups_and_extras() {
        let proxy = FrontProxy::parse(&data(|_| {})).unwrap();
        let user = proxy.user(&headers(&[
            ("x-remote-user", "alice"),
            ("x-remote-uid", "u-1"),
            ("x-remote-group", "team-a"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-example.com%2fscopes", "view"),
            ("x-remote-extra-example.com%2Fscopes", "edit"),
        ]));
        let user = user.unwrap();
        assert_eq!((&*user.name, &*user.uid), ("alice", "u-1"));
        // as Kubernetes' own servers add it: the aggregator's helpers come with no group at all
        assert_eq!(user.groups, ["team-a", "ops", "system:authenticated"]);
        assert_eq!(user.extra["example.com/scopes"], ["view", "edit"]);
    }

    #[test]
    fn nobody_is_named_by_groups_alone_and_anonymous_stays_so() {
        let proxy = FrontProxy::parse(&data(|_| {})).unwrap();
        assert_eq!(proxy.user(&headers(&[("x-remote-group", "system:masters"), ("x-remote-user", "")])), None);
        let anonymous = headers(&[("x-remote-user", "system:anonymous"), ("x-remote-group", "system:unauthenticated")]);
        assert_eq!(proxy.user(&anonymous).unwrap().groups, ["system:unauthenticated"]);
    }

    #[test]
    fn names_that_are_not_allowed_speak_for_nobody() {
        let proxy = FrontProxy::parse(&data(|_| {})).unwrap();
        assert!(proxy.allows("front-proxy-client") && !proxy.allows("kubelet") && !proxy.allows(""));
        let any = FrontProxy::parse(&data(|d| drop(d.insert("requestheader-allowed-names".into(), "[]".into()))));
        assert!(any.unwrap().allows("whoever"));
    }

    #[test]
    fn without_a_front_proxy_the_missing_flag_is_named() {
        for key in ["requestheader-client-ca-file", "requestheader-username-headers"] {
            let told = FrontProxy::parse(&data(|d| drop(d.remove(key)))).unwrap_err();
            assert!(told.contains("--requestheader-client-ca-file"), "{told}");
        }
        let broken = data(|d| drop(d.insert("requestheader-allowed-names".into(), "x".into())));
        assert!(FrontProxy::parse(&broken).unwrap_err().contains("requestheader-allowed-names"));
    }

    #[test]
    fn the_common_name_of_a_certificate_is_read_and_bytes_are_none() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["front-proxy-client.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "front-proxy-client");
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(common_name(certificate.der()).as_deref(), Some("front-proxy-client"));
        params.distinguished_name = rcgen::DistinguishedName::new();
        assert_eq!(common_name(params.self_signed(&key).unwrap().der()), None);
        assert_eq!(common_name(b"\x30\x82\xff\xff junk"), None);
    }
}
