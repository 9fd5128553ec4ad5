//! One request: who asks, what, whether they may, and the answer.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Server;
use crate::{
    accept::{Form, form},
    access::{Attributes, User},
    discovery::{self, Groups},
    front_proxy::FrontProxy,
    kinds::View,
    list, openapi,
    present::Present,
    refusal::Refusal,
    request::{self, Path, Query, Target, What},
    store::Store,
    watch::{self, Terms},
};

/// Of an answer: whole, or piece by piece.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One request whose answer begins.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// Plural of the resource; empty for everything else.
    pub resource: &'a str,
    /// `get`, `list` or `watch`; empty for everything else.
    pub verb: &'a str,
    pub status: StatusCode,
    /// Until the answer begins.
    pub took: Duration,
}

/// Who is on the other end of a connection.
#[derive(Debug)]
pub(super) struct Caller {
    /// It speaks for others.
    pub(super) proxy: Option<Arc<FrontProxy>>,
}

/// What is the same for everybody, made once.
#[derive(Debug)]
pub(super) struct Documents {
    groups: [(Groups, Document); 3],
    group: Document,
    resources: Document,
    v2: Document,
    index: Document,
    v3: Document,
}

#[derive(Clone, Debug)]
struct Document {
    body: Bytes,
    tag: HeaderValue,
    content_type: HeaderValue,
}

impl Document {
    fn new(value: &Value, content_type: &str) -> Self {
        let body = Bytes::from(value.to_string());
        let quoted = format!("\"{}\"", hash(&body));
        let json = HeaderValue::from_static("application/json");
        Self {
            // hexadecimal digits in quotes are a good value of a header
            tag: HeaderValue::from_str(&quoted).unwrap_or_else(|_| HeaderValue::from_static("\"\"")),
            content_type: HeaderValue::from_str(content_type).unwrap_or(json),
            body,
        }
    }

    fn json(value: &Value) -> Self {
        Self::new(value, "application/json")
    }
}

fn hash(body: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(body))
}

impl Default for Documents {
    fn default() -> Self {
        let v3 = Document::json(&openapi::v3());
        let groups = [Groups::List, Groups::Aggregated("v2"), Groups::Aggregated("v2beta1")];
        Self {
            groups: groups.map(|form| (form, Document::new(&form.document(), &form.content_type()))),
            group: Document::json(&discovery::group()),
            resources: Document::json(&discovery::resources()),
            v2: Document::json(&openapi::v2()),
            index: Document::json(&openapi::index(&hash(&v3.body))),
            v3,
        }
    }
}

impl Documents {
    fn of(&self, path: &Path, accept: Option<&str>) -> Option<&Document> {
        Some(match path {
            Path::Groups => {
                let wanted = Groups::wanted(accept);
                return self.groups.iter().find(|(form, _)| *form == wanted).map(|(_, d)| d);
            }
            Path::Group => &self.group,
            Path::Version => &self.resources,
            Path::OpenApiV2 => &self.v2,
            Path::OpenApiIndex => &self.index,
            Path::OpenApiV3 => &self.v3,
            Path::Health | Path::Resource(_) => return None,
        })
    }
}

impl Server {
    pub(super) async fn answer<B>(&self, request: Request<B>, caller: &Caller) -> Response<Body> {
        let started = Instant::now();
        let path = request::path(request.uri().path());
        let (resource, verb) = match &path {
            Ok(Path::Resource(target)) => (target.resource.plural, verb(target, request.uri().query())),
            _ => ("", ""),
        };
        let mut response = match self.answered(&request, path, caller).await {
            Ok(response) => response,
            Err(refusal) => refused(&refusal),
        };
        if request.method() == Method::HEAD {
            // over HTTP/2 nobody else takes the body of such an answer away
            *response.body_mut() = Full::default().boxed_unsync();
        }
        (self.told)(&Answered { resource, verb, status: response.status(), took: started.elapsed() });
        response
    }

    async fn answered<B>(
        &self,
        request: &Request<B>,
        path: Result<Path, Refusal>,
        caller: &Caller,
    ) -> Result<Response<Body>, Refusal> {
        if matches!(path, Ok(Path::Health)) {
            return Ok(whole(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from_static(b"ok")));
        }
        // who is not known is not told what there is
        let user = self.user(request.headers(), caller).await?;
        let path = path?;
        if request.method() != Method::GET {
            return Err(Refusal::method(request.method()));
        }
        match &path {
            Path::Resource(target) => self.resource(request, target, &user).await,
            other => {
                // the API server lets everybody who is known read these, and they are the same everywhere
                if !user.is_known() {
                    return Err(Refusal::forbidden(format!("User \"{}\" cannot get path", user.name)));
                }
                let document = self.documents.of(other, accept(request.headers())).ok_or_else(Refusal::no_path)?;
                Ok(documented(document, request.headers()))
            }
        }
    }

    async fn user(&self, headers: &HeaderMap, caller: &Caller) -> Result<User, Refusal> {
        if let Some(user) = caller.proxy.as_ref().and_then(|proxy| proxy.user(headers)) {
            return Ok(user);
        }
        let token = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let token = token.ok_or_else(Refusal::unauthorized)?;
        let user = self.gate.user(token).await.map_err(|e| Refusal::unavailable(e.to_string()))?;
        user.ok_or_else(Refusal::unauthorized)
    }

    async fn resource<B>(&self, request: &Request<B>, target: &Target, user: &User) -> Result<Response<Body>, Refusal> {
        let text = request.uri().query().unwrap_or_default();
        let query = request::query(target, text);
        let named = || query.as_ref().ok().and_then(|q| q.fields.exactly("metadata.name"));
        let what = Attributes {
            verb: verb(target, Some(text)),
            resource: target.resource.plural,
            namespace: target.namespace.clone().unwrap_or_default(),
            name: target.name.clone().or_else(|| named().map(Into::into)).unwrap_or_default(),
        };
        // before anything is said about what is wrong with the question
        self.allowed(user, &what).await?;
        let form = form(accept(request.headers())).ok_or_else(Refusal::not_acceptable)?;
        let query = query?;
        self.shelf.serves(target.resource.plural)?;
        let shelf = &self.shelf;
        match target.resource.plural {
            "endpoints" => self.shown(&shelf.endpoints, target, query, form),
            "identities" => self.shown(&shelf.identities, target, query, form),
            "nodes" => self.shown(&shelf.nodes, target, query, form),
            "policytables" => self.shown(&shelf.policy_tables, target, query, form),
            _ => Err(Refusal::no_path()),
        }
    }

    async fn allowed(&self, user: &User, what: &Attributes) -> Result<(), Refusal> {
        let answer = self.gate.may(user, what).await.map_err(|e| Refusal::unavailable(e.to_string()))?;
        if answer.allowed {
            return Ok(());
        }
        let why = if answer.reason.is_empty() { String::new() } else { format!(": {}", answer.reason) };
        let object = if what.name.is_empty() { String::new() } else { format!(" \"{}\"", what.name) };
        let resource = format!("{}.{}{object}", what.resource, crate::GROUP);
        Err(Refusal::forbidden(format!("{resource} is forbidden: User \"{}\" {what}{why}", user.name)))
    }

    fn shown<T: View>(
        &self,
        store: &Arc<Store<T>>,
        target: &Target,
        query: Query,
        form: Form,
    ) -> Result<Response<Body>, Refusal> {
        let present = Present { form, include: query.include };
        if let Some(name) = &target.name {
            let key = (target.namespace.clone().unwrap_or_default(), name.clone());
            let (view, version) = store.get(&key).ok_or_else(|| Refusal::not_found(target.resource.plural, name))?;
            return Ok(json(Bytes::from(present.one(&view, version).to_string())));
        }
        match query.what.clone() {
            What::List { limit, from, exactly } => {
                if exactly.is_some_and(|version| *store.newest().borrow() != version) {
                    return Err(Refusal::expired("that version is not there (any more): only the newest one is"));
                }
                Ok(streamed(list::list(store.clone(), query, present, (limit, from))))
            }
            What::Watch { begin, bookmarks, timeout } => {
                let place = self.watches.clone().try_acquire_owned();
                let place = place.map_err(|_| Refusal::too_many("too many watches are open"))?;
                let terms = Terms { begin, bookmarks, timeout, cancel: self.cancel.clone() };
                let frames = watch::watch(store.clone(), query, present, terms);
                Ok(streamed(frames.map(move |frame| {
                    let _held = &place;
                    frame
                })))
            }
        }
    }
}

/// `get`, `list` or `watch`.
fn verb(target: &Target, query: Option<&str>) -> &'static str {
    match (&target.name, query) {
        (Some(_), _) => "get",
        (None, Some(query)) if request::is_watch(query) => "watch",
        _ => "list",
    }
}

fn accept(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok())
}

fn whole(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    put(&mut response, header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    put(&mut response, header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn json(body: Bytes) -> Response<Body> {
    whole(StatusCode::OK, "application/json", body)
}

fn streamed(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let mut response = json(Bytes::new());
    *response.body_mut() = StreamBody::new(pieces.map(|p| Ok(Frame::data(p)))).boxed_unsync();
    response
}

fn documented(document: &Document, headers: &HeaderMap) -> Response<Body> {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|v| *v == document.tag);
    let mut response = if known {
        whole(StatusCode::NOT_MODIFIED, "application/json", Bytes::new())
    } else {
        json(document.body.clone())
    };
    put(&mut response, header::CONTENT_TYPE, document.content_type.clone());
    put(&mut response, header::ETAG, document.tag.clone());
    put(&mut response, header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let mut response = whole(refusal.code, "application/json", Bytes::from(refusal.status().to_string()));
    if let Some(seconds) = refusal.retry_after {
        put(&mut response, header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.code == StatusCode::METHOD_NOT_ALLOWED {
        put(&mut response, header::ALLOW, HeaderValue::from_static("GET"));
    }
    response
}

fn put(response: &mut Response<Body>, name: HeaderName, value: HeaderValue) {
    response.headers_mut().insert(name, value);
}
