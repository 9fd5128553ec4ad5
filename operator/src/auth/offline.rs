//! Tokens judged without the API server, by the keys that it signs them with.
//!
//! *Why so*: an agent that starts while the API server is away must get its rows, and its operator may not ask anybody
//! who it is. A certificate of the operator's own for each node would have to be issued, kept secret on the node, renewed
//! and revoked by code of ours, and a stolen one would outlive the pod. The token is there already: it is signed, names
//! audience, account, pod and node, and ends within the hour (deploy/base asks for 3600 s).
//!
//! *Guarantees*: only an answer that the API server cannot give is found here; one that it has given, good or bad, is
//! never overruled. A token must be signed by a key that this API server published, with that key's algorithm; be of its
//! issuer, for our audience, of the agent's account, in force, bound to a pod and to a node; and live no longer than
//! [`LONGEST`] in all. *Caveats*: what was revoked while the API server could not be asked (a pod or node that was deleted
//! meanwhile) is good until the token ends, which is an hour at most.

use std::{sync::Arc, time::Duration};

use axoneme_wire::TOKEN_AUDIENCE;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, Jwk, JwkSet, KeyAlgorithm},
};
use serde::Deserialize;

/// A token that is good for longer cannot be taken back for too long.
const LONGEST: Duration = Duration::from_hours(2);
/// Between the clocks of the API server and of this node.
const LEEWAY: Duration = Duration::from_secs(10);
/// Longest token that is looked at: bound tokens have about 1200 bytes.
const MOST_BYTES: usize = 16 << 10;

/// What the API server signs tokens with.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    issuer: String,
    keys: JwkSet,
}

/// The part of the discovery document that counts (OpenID Connect Discovery 1.0).
#[derive(Debug, Deserialize)]
struct Discovery {
    issuer: String,
}

/// Claims of a bound token (Kubernetes, `pkg/serviceaccount/claims.go`).
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    iat: u64,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    bound: Bound,
}

#[derive(Debug, Deserialize)]
struct Bound {
    pod: Option<Named>,
    node: Option<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

impl Keys {
    /// From the API server's `/.well-known/openid-configuration` and `/openid/v1/jwks`.
    ///
    /// # Errors
    /// What is no such document, in words.
    pub(super) fn parse(discovery: &str, keys: &str) -> Result<Self, String> {
        let discovery: Discovery = serde_json::from_str(discovery).map_err(|e| format!("discovery document: {e}"))?;
        // one key of a kind that is not known must not cost the others
        let list: serde_json::Value = serde_json::from_str(keys).map_err(|e| format!("keys: {e}"))?;
        let list = list.get("keys").and_then(|k| k.as_array()).ok_or("keys: no list of keys")?;
        let keys: Vec<Jwk> = list.iter().filter_map(|k| serde_json::from_value(k.clone()).ok()).collect();
        if keys.is_empty() {
            return Err("keys: none that is understood".to_owned());
        }
        Ok(Self { issuer: discovery.issuer, keys: JwkSet { keys } })
    }

    /// The node that the token is bound to, if it is one of `user` for this audience and in force now.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn judge(&self, token: &str, user: &str) -> Result<Arc<str>, String> {
        if token.len() > MOST_BYTES {
            return Err("too long for a token".to_owned());
        }
        let header = decode_header(token).map_err(|e| e.to_string())?;
        let name = header.kid.ok_or("it names no key")?;
        let key = self.keys.find(&name).ok_or("its key is not known")?;
        // the key decides how it is used, not the token
        let algorithm = algorithm(key).ok_or("its key is of another kind")?;
        let mut rules = Validation::new(algorithm);
        rules.leeway = LEEWAY.as_secs();
        rules.validate_nbf = true;
        rules.set_audience(&[TOKEN_AUDIENCE]);
        rules.set_issuer(&[&self.issuer]);
        rules.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
        let key = DecodingKey::from_jwk(key).map_err(|e| e.to_string())?;
        let claims = decode::<Claims>(token, &key, &rules).map_err(|e| e.to_string())?.claims;
        if claims.sub != user {
            return Err(format!("it is that of {}, not of {user}", claims.sub));
        }
        if claims.exp.saturating_sub(claims.iat) > LONGEST.as_secs() {
            let most = LONGEST.as_secs();
            return Err(format!("it is good for more than {most} s, which is too long while nobody can revoke it"));
        }
        match (claims.bound.pod, claims.bound.node) {
            (Some(_), Some(node)) if !node.name.is_empty() => Ok(node.name.into()),
            _ => Err("it is not bound to a pod on a node".to_owned()),
        }
    }
}

/// How a key is used; none for one that the API server doesn't sign with.
fn algorithm(key: &Jwk) -> Option<Algorithm> {
    match (&key.algorithm, key.common.key_algorithm) {
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS256) | None) => Some(Algorithm::RS256),
        (AlgorithmParameters::EllipticCurve(_), Some(KeyAlgorithm::ES256)) => Some(Algorithm::ES256),
        (AlgorithmParameters::EllipticCurve(_), Some(KeyAlgorithm::ES384)) => Some(Algorithm::ES384),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;

    pub(in crate::auth) const USER: &str = "system:serviceaccount:ax:agent";
    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    /// An API server that signs.
    pub(in crate::auth) struct Signer {
        key: EncodingKey,
        algorithm: Algorithm,
        name: &'static str,
    }

    impl Signer {
        pub(in crate::auth) fn ec(name: &'static str) -> Self {
            let pair = rcgen::KeyPair::generate().unwrap();
            Self { key: EncodingKey::from_ec_der(&pair.serialize_der()), algorithm: Algorithm::ES256, name }
        }

        fn rsa(name: &'static str) -> Self {
            let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
            // the key proper, inside of its PKCS #8 envelope
            let key = EncodingKey::from_rsa_der(&pair.serialize_der()[26..]);
            Self { key, algorithm: Algorithm::RS256, name }
        }

        fn jwk(&self) -> Jwk {
            let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
            jwk.common.key_id = Some(self.name.to_owned());
            jwk
        }

        pub(in crate::auth) fn documents(signers: &[&Self]) -> (String, String) {
            let mut keys: Vec<Value> = signers.iter().map(|s| serde_json::to_value(s.jwk()).unwrap()).collect();
            keys.push(json!({"kty": "something newer", "kid": "x"}));
            (json!({"issuer": ISSUER, "jwks_uri": "https://elsewhere/"}).to_string(), json!({"keys": keys}).to_string())
        }

        pub(in crate::auth) fn sign(&self, claims: &Value) -> String {
            let header = Header { kid: Some(self.name.to_owned()), ..Header::new(self.algorithm) };
            encode(&header, claims, &self.key).unwrap()
        }
    }

    pub(in crate::auth) fn claims(node: &str, change: impl FnOnce(&mut Value)) -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        let mut claims = json!({
            "iss": ISSUER, "aud": [TOKEN_AUDIENCE], "sub": USER, "iat": now - 60, "nbf": now - 60, "exp": now + 3540,
            "jti": "0", "kubernetes.io": {
                "namespace": "ax", "node": {"name": node, "uid": "u"}, "pod": {"name": "agent-x", "uid": "p"},
                "serviceaccount": {"name": "agent", "uid": "s"},
            },
        });
        change(&mut claims);
        claims
    }

    fn keys(signers: &[&Signer]) -> Keys {
        let (discovery, keys) = Signer::documents(signers);
        Keys::parse(&discovery, &keys).unwrap()
    }

    #[test]
    fn a_token_of_the_cluster_names_its_node() {
        let (ec, rsa) = (Signer::ec("a"), Signer::rsa("b"));
        let keys = keys(&[&ec, &rsa]);
        for signer in [&ec, &rsa] {
            assert_eq!(keys.judge(&signer.sign(&claims("n1", |_| {})), USER), Ok("n1".into()));
            assert_eq!(keys.judge(&signer.sign(&claims("n2", |_| {})), USER), Ok("n2".into()), "its own node only");
        }
    }

    #[test]
    fn what_is_wrong_with_a_token_is_found_without_the_api_server() {
        let (ec, rsa) = (Signer::ec("a"), Signer::rsa("b"));
        let keys = keys(&[&ec, &rsa]);
        let now = jsonwebtoken::get_current_timestamp();
        let wrong: [(&str, Value); 10] = [
            ("Expired", claims("n1", |c| c["exp"] = (now - 60).into())),
            ("Immature", claims("n1", |c| c["nbf"] = (now + 60).into())),
            ("Audience", claims("n1", |c| c["aud"] = json!(["https://kubernetes.default.svc"]))),
            ("Missing required claim: aud", claims("n1", |c| drop(c.as_object_mut().unwrap().remove("aud")))),
            ("Issuer", claims("n1", |c| c["iss"] = "https://other".into())),
            ("not of", claims("n1", |c| c["sub"] = "system:serviceaccount:ax:other".into())),
            ("not bound", claims("n1", |c| drop(c["kubernetes.io"].as_object_mut().unwrap().remove("node")))),
            ("not bound", claims("n1", |c| drop(c["kubernetes.io"].as_object_mut().unwrap().remove("pod")))),
            ("not bound", claims("", |_| {})),
            ("too long", claims("n1", |c| c["exp"] = (now + 86_400).into())),
        ];
        for (why, claims) in wrong {
            let said = keys.judge(&ec.sign(&claims), USER).unwrap_err();
            let said = said.replace("ExpiredSignature", "Expired").replace("ImmatureSignature", "Immature");
            assert!(said.contains(why), "{why}: {said}");
        }
        // forged: by another's key under a known name, with another node put in, with no signature, by the public key
        let good = ec.sign(&claims("n1", |_| {}));
        let parts: Vec<&str> = good.split('.').collect();
        let other = ec.sign(&claims("n2", |_| {}));
        let header = Header { kid: Some("b".to_owned()), ..Header::new(Algorithm::HS256) };
        let public = serde_json::to_vec(&rsa.jwk()).unwrap();
        let forged = [
            Signer::ec("a").sign(&claims("n1", |_| {})),
            Signer::ec("c").sign(&claims("n1", |_| {})),
            [parts[0], other.split('.').nth(1).unwrap(), parts[2]].join("."),
            [parts[0], parts[1], ""].join("."),
            encode(&header, &claims("n1", |_| {}), &EncodingKey::from_secret(&public)).unwrap(),
            String::new(),
            "a.b.c".to_owned(),
            "x".repeat(MOST_BYTES + 1),
        ];
        for token in forged {
            assert!(keys.judge(&token, USER).is_err(), "{token}");
        }
    }

    #[test]
    fn documents_that_are_none_are_named() {
        assert!(Keys::parse("{}", "{\"keys\": []}").unwrap_err().contains("issuer"));
        assert!(Keys::parse("{\"issuer\": \"x\"}", "{\"keys\": []}").unwrap_err().contains("none"));
        assert!(Keys::parse("{\"issuer\": \"x\"}", "<html>").is_err());
    }
}
