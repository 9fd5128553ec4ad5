//! Which node a token belongs to: asked of the API server, remembered for a while; while it cannot be asked, judged by
//! the keys that it signs tokens with ([`offline`]).

mod offline;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axoneme_wire::{
    TOKEN_AUDIENCE,
    server::{Authenticator, Denied},
};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

/// Extra of a user that names the node of a node-bound token (KEP-4193).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// How long an answer is good: a token that was revoked can open streams for this long.
const GOOD_FOR: Duration = Duration::from_mins(1);
const REMEMBERED: usize = 8192;
const DEADLINE: Duration = Duration::from_secs(5);
/// Between looks at the keys, and after one that failed.
const KEYS: Duration = Duration::from_mins(5);
const KEYS_AGAIN: Duration = Duration::from_secs(10);

/// By the token's hash: its node, and when that was learnt.
type Answers = HashMap<[u8; 32], (Arc<str>, Instant)>;

/// Asks the API server.
#[expect(missing_debug_implementations, reason = "the client has no Debug")]
pub struct TokenReviews {
    client: Client,
    /// User name that agents have.
    user: String,
    answers: Mutex<Answers>,
    /// What the API server signs tokens with, once it was there.
    keys: Mutex<Option<offline::Keys>>,
    /// Tokens with a good signature that the API server has refused all the same: it knows what was revoked.
    revoked: Mutex<HashSet<[u8; 32]>>,
}

impl TokenReviews {
    /// For agents of the ServiceAccount `account` of the namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, account: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        Self { client, user, answers: Mutex::default(), keys: Mutex::default(), revoked: Mutex::default() }
    }

    /// Keeps the keys until cancelled, so that they are at hand when the API server is not.
    pub async fn keep(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            let pause = match self.learn().await {
                Ok(()) => KEYS,
                Err(error) => {
                    tracing::debug!(error, "the keys of ServiceAccount tokens are not known");
                    KEYS_AGAIN
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn learn(&self) -> Result<(), String> {
        let (discovery, keys) =
            tokio::try_join!(self.document("/.well-known/openid-configuration"), self.document("/openid/v1/jwks"))?;
        *lock(&self.keys) = Some(offline::Keys::parse(&discovery, &keys)?);
        Ok(())
    }

    async fn document(&self, path: &str) -> Result<String, String> {
        let request = http::Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
        let answer = tokio::time::timeout(DEADLINE, self.client.request_text(request)).await;
        answer.map_err(|_| format!("{path}: no answer in time"))?.map_err(|e| format!("{path}: {e}"))
    }

    /// What the keys say of the token.
    fn by_keys(&self, digest: &[u8; 32], token: &str) -> Option<Result<Arc<str>, String>> {
        let judged = lock(&self.keys).as_ref()?.judge(token, &self.user);
        let revoked = judged.is_ok() && lock(&self.revoked).contains(digest);
        Some(if revoked { Err("the API server has refused it before".to_owned()) } else { judged })
    }

    /// The API server refuses a token: if its signature is good, something was revoked.
    fn refuse(&self, digest: [u8; 32], token: &str) {
        lock(&self.answers).remove(&digest);
        if matches!(self.by_keys(&digest, token), Some(Ok(_))) {
            let mut revoked = lock(&self.revoked);
            // only the API server's own tokens come here: as many within their hour are no accident
            if revoked.len() >= REMEMBERED {
                tracing::warn!("too many tokens were revoked: none is judged without the API server any more");
                *lock(&self.keys) = None;
                revoked.clear();
            }
            revoked.insert(digest);
        }
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Arc<str>> {
        let answers = lock(&self.answers);
        answers.get(digest).filter(|(_, at)| at.elapsed() < GOOD_FOR).map(|(node, _)| node.clone())
    }

    fn remember(&self, digest: [u8; 32], node: &Arc<str>) {
        let mut answers = lock(&self.answers);
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
        let unavailable = match self.ask(token).await {
            Ok(status) => {
                let judged = judge(&status, &self.user);
                match &judged {
                    Ok(node) => self.remember(digest, node),
                    Err(_) => self.refuse(digest, token),
                }
                return judged;
            }
            Err(unavailable) => unavailable,
        };
        match self.by_keys(&digest, token) {
            Some(Ok(node)) => {
                tracing::info!(%node, "the API server is away: the agent's token is judged by its signature");
                Ok(node)
            }
            Some(Err(why)) => {
                Err(Denied::Unavailable(format!("{unavailable}, and by its signature it is not good: {why}")))
            }
            None => Err(unavailable),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::sync::atomic::{AtomicU8, Ordering};

    use k8s_openapi::api::authentication::v1::UserInfo;
    use kube::client::Body;

    use super::{
        offline::tests::{Signer, USER, claims},
        *,
    };

    const GOOD: u8 = 0;
    const REVOKED: u8 = 1;
    const AWAY: u8 = 2;

    /// An API server that can be away.
    fn api(state: Arc<AtomicU8>, documents: (String, String)) -> Client {
        let answer = move |request: http::Request<Body>| {
            let (state, path, documents) = (state.clone(), request.uri().path().to_owned(), documents.clone());
            async move {
                let good = match state.load(Ordering::SeqCst) {
                    AWAY => return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
                    state => state == GOOD,
                };
                let body = match &*path {
                    "/.well-known/openid-configuration" => documents.0,
                    "/openid/v1/jwks" => documents.1,
                    _ => {
                        let good =
                            TokenReviewStatus { authenticated: Some(good), ..status(USER, TOKEN_AUDIENCE, Some("n1")) };
                        let review = TokenReview { status: Some(good), ..TokenReview::default() };
                        serde_json::to_string(&review).unwrap()
                    }
                };
                Ok(http::Response::new(Body::from(body.into_bytes())))
            }
        };
        Client::new(tower::service_fn(answer), "ax")
    }

    #[tokio::test]
    async fn tokens_are_judged_by_their_signature_only_while_the_api_server_is_away() {
        let (signer, state) = (Signer::ec("a"), Arc::new(AtomicU8::new(GOOD)));
        let client = api(state.clone(), Signer::documents(&[&signer]));
        let auth = TokenReviews::new(client.clone(), "ax", "agent");
        let [known, later, revoked] = ["1", "2", "3"].map(|id| signer.sign(&claims("n1", |c| c["jti"] = id.into())));
        // without keys nobody can be known
        state.store(AWAY, Ordering::SeqCst);
        assert!(matches!(auth.node(&later).await, Err(Denied::Unavailable(_))));
        assert!(auth.learn().await.is_err());
        state.store(GOOD, Ordering::SeqCst);
        auth.learn().await.unwrap();
        assert_eq!(auth.node(&known).await, Ok("n1".into()));
        state.store(REVOKED, Ordering::SeqCst);
        assert!(matches!(auth.node(&revoked).await, Err(Denied::Invalid(_))), "a good signature is not asked about");
        state.store(AWAY, Ordering::SeqCst);
        assert!(auth.learn().await.is_err());
        assert_eq!(auth.node(&later).await, Ok("n1".into()), "the keys are remembered");
        let Err(Denied::Unavailable(why)) = auth.node(&revoked).await else { panic!("what was revoked stays so") };
        assert!(why.contains("refused it before"), "{why}");
        let forged = Signer::ec("a").sign(&claims("n1", |_| {}));
        assert!(matches!(auth.node(&forged).await, Err(Denied::Unavailable(_))));
        // the API server is back, and its word counts
        state.store(REVOKED, Ordering::SeqCst);
        assert!(matches!(auth.node(&later).await, Err(Denied::Invalid(_))));
    }

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
