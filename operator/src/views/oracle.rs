//! Who may see what: the API server's word.

use axoneme_views::{Access, Attributes, GROUP, Unavailable, User, VERSION, access::Allowed};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};

/// Asks the API server by reviews.
#[expect(missing_debug_implementations, reason = "the client has no Debug")]
pub struct Oracle {
    client: Client,
}

impl Oracle {
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client }
    }
}

fn unavailable(e: &kube::Error) -> Unavailable {
    Unavailable(e.to_string())
}

#[async_trait::async_trait]
impl Access for Oracle {
    async fn user(&self, token: &str) -> Result<Option<User>, Unavailable> {
        let api: Api<TokenReview> = Api::all(self.client.clone());
        // no audience: the API server's own, as for every request to it
        let spec = TokenReviewSpec { audiences: None, token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = api.create(&PostParams::default(), &review).await.map_err(|e| unavailable(&e))?;
        let status = answer.status.ok_or_else(|| Unavailable("the review has no status".to_owned()))?;
        if !status.authenticated.unwrap_or(false) {
            return Ok(None);
        }
        let user = status.user.unwrap_or_default();
        let name = user.username.filter(|n| !n.is_empty());
        Ok(name.map(|name| User {
            name,
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }

    async fn may(&self, user: &User, what: &Attributes) -> Result<Allowed, Unavailable> {
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let attributes = ResourceAttributes {
            group: Some(GROUP.to_owned()),
            version: Some(VERSION.to_owned()),
            resource: Some(what.resource.to_owned()),
            verb: Some(what.verb.to_owned()),
            namespace: given(&what.namespace),
            name: given(&what.name),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: given(&user.name),
            uid: given(&user.uid),
            groups: Some(user.groups.clone()),
            extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = api.create(&PostParams::default(), &review).await.map_err(|e| unavailable(&e))?;
        let status = answer.status.ok_or_else(|| Unavailable("the review has no status".to_owned()))?;
        Ok(Allowed {
            allowed: status.allowed && !status.denied.unwrap_or(false),
            reason: status.reason.unwrap_or_default(),
        })
    }
}
