//! Which node a token belongs to: asked of the API server, remembered for a while.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axoneme_wire::{
    TOKEN_AUDIENCE,
    server::{Authenticator, Denied},
};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest as _, Sha256};

/// Extra of a user that names the node of a node-bound token (KEP-4193).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// How long an answer is good: a token that was revoked can open streams for this long.
const GOOD_FOR: Duration = Duration::from_mins(1);
const REMEMBERED: usize = 8192;
const DEADLINE: Duration = Duration::from_secs(5);

/// By the token's hash: its node, and when that was learnt.
type Answers = HashMap<[u8; 32], (Arc<str>, Instant)>;

/// Asks the API server.
#[expect(missing_debug_implementations, reason = "the client has no Debug")]
pub struct TokenReviews {
    client: Client,
    /// User name that agents have.
    user: String,
    answers: Mutex<Answers>,
}

impl TokenReviews {
    /// For agents of the ServiceAccount `account` of the namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, account: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        Self { client, user, answers: Mutex::default() }
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Arc<str>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(digest).filter(|(_, at)| at.elapsed() < GOOD_FOR).map(|(node, _)| node.clone())
    }

    fn remember(&self, digest: [u8; 32], node: &Arc<str>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= REMEMBERED {
            answers.retain(|_, (_, at)| at.elapsed() < GOOD_FOR);
        }
        if answers.len() < REMEMBERED {
            answers.insert(digest, (node.clone(), Instant::now()));
        }
    }

    async fn ask(&self, token: &str) -> Result<TokenReviewStatus, Denied> {
        let review = TokenReview {
            spec: TokenReviewSpec { audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]), token: token.to_owned() },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = tokio::time::timeout(DEADLINE, api.create(&params, &review)).await;
        let unavailable = |e: String| Denied::Unavailable(format!("the token can't be reviewed: {e}"));
        let answer = answer.map_err(|_| unavailable("no answer in time".into()))?;
        answer.map_err(|e| unavailable(e.to_string()))?.status.ok_or_else(|| unavailable("no status".into()))
    }
}

#[async_trait::async_trait]
impl Authenticator for TokenReviews {
    async fn node(&self, token: &str) -> Result<Arc<str>, Denied> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(node) = self.remembered(&digest) {
            return Ok(node);
        }
        let status = self.ask(token).await?;
        let node = judge(&status, &self.user)?;
        self.remember(digest, &node);
        Ok(node)
    }
}

fn judge(status: &TokenReviewStatus, user: &str) -> Result<Arc<str>, Denied> {
    let invalid = |text: String| Err(Denied::Invalid(text));
    if !status.authenticated.unwrap_or(false) {
        return invalid(format!("token refused: {}", status.error.as_deref().unwrap_or("not authenticated")));
    }
    // an API server that doesn't know audiences answers without them: then the token may be meant for anyone
    if !status.audiences.as_ref().is_some_and(|a| a.iter().any(|a| a == TOKEN_AUDIENCE)) {
        return invalid(format!("the token is not for the audience {TOKEN_AUDIENCE}"));
    }
    let who = status.user.as_ref();
    let name = who.and_then(|u| u.username.as_deref()).unwrap_or_default();
    if name != user {
        return invalid(format!("the token is that of {name}, not of {user}"));
    }
    let extra = who.and_then(|u| u.extra.as_ref());
    match extra.and_then(|e| e.get(NODE_NAME)).map(Vec::as_slice) {
        Some([node]) if !node.is_empty() => Ok(node.as_str().into()),
        _ => invalid("the token is not bound to a node: it must be projected into a pod".into()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(user: &str, audience: &str, node: Option<&str>) -> TokenReviewStatus {
        let extra = node.map(|n| [(NODE_NAME.to_owned(), vec![n.to_owned()])].into());
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.into()]),
            user: Some(UserInfo { username: Some(user.into()), extra, ..UserInfo::default() }),
            error: None,
        }
    }

    #[test]
    fn only_a_node_bound_token_of_the_agent_for_the_operator_is_taken() {
        let user = "system:serviceaccount:ax:agent";
        assert_eq!(judge(&status(user, TOKEN_AUDIENCE, Some("n1")), user), Ok("n1".into()));
        for wrong in [
            status("system:serviceaccount:ax:other", TOKEN_AUDIENCE, Some("n1")),
            status(user, "https://kubernetes.default.svc", Some("n1")),
            status(user, TOKEN_AUDIENCE, None),
            TokenReviewStatus { authenticated: Some(false), ..status(user, TOKEN_AUDIENCE, Some("n1")) },
            TokenReviewStatus { audiences: None, ..status(user, TOKEN_AUDIENCE, Some("n1")) },
        ] {
            assert!(matches!(judge(&wrong, user), Err(Denied::Invalid(_))), "{wrong:?}");
        }
    }
}
