//! A server with a small cluster, an authority for its front proxy, and an API server that knows some users.

use std::sync::{Arc, Mutex};

use axoneme_model::{
    Identity as Number, LabelKey, Labels, ObjectRef, PackedSet,
    labels::names,
    object::Kind,
    rows::TableId,
    world::{PlainLabels, Pod},
};
use axoneme_views::{
    Access, Attributes, Endpoint, Identity, Node, PolicyTable, Shelf, Stance, Unavailable, User, View,
    access::Allowed,
    front_proxy::FrontProxy,
    kinds::{Content, EndpointPolicy},
    server::{Certificates, Limits, Server},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

pub(crate) const SERVER: &str = "axoneme-views.axoneme-system.svc";

/// Who signs.
pub(crate) struct Authority {
    pub(crate) pem: String,
    key: String,
}

/// Certificate and key, PEM.
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

fn authority_params() -> CertificateParams {
    let mut p = CertificateParams::default();
    p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    p.distinguished_name.push(DnType::CommonName, "authority of the test");
    p
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        Self { pem: authority_params().self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    pub(crate) fn leaf(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Leaf {
        let issuer = Issuer::new(authority_params(), KeyPair::from_pem(&self.key).unwrap());
        let mut p = CertificateParams::new(vec![name.to_owned()]).unwrap();
        p.distinguished_name.push(DnType::CommonName, name);
        p.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        Leaf { certificate: p.signed_by(&key, &issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// What the API server says: `admin` may all, `team-a` may see namespace `a`, a token is its user's name.
#[derive(Debug, Default)]
pub(crate) struct Says {
    pub(crate) asked: Mutex<Vec<(String, Attributes)>>,
    pub(crate) away: std::sync::atomic::AtomicBool,
}

struct Voice(Arc<Says>);

#[async_trait::async_trait]
impl Access for Voice {
    async fn user(&self, token: &str) -> Result<Option<User>, Unavailable> {
        let name = token.strip_prefix("token-of-").map(str::to_owned);
        Ok(name.map(|name| User { name, ..User::default() }))
    }

    async fn may(&self, user: &User, what: &Attributes) -> Result<Allowed, Unavailable> {
        if self.0.away.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Unavailable("connection refused".to_owned()));
        }
        self.0.asked.lock().unwrap().push((user.name.clone(), what.clone()));
        let allowed = user.name == "admin" || (user.name == "team-a" && &*what.namespace == "a");
        Ok(Allowed { allowed, reason: String::new() })
    }
}

pub(crate) struct Rig {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) authority: Authority,
    pub(crate) proxies: Authority,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) says: Arc<Says>,
    pub(crate) certificates: Certificates,
    cancel: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let (authority, proxies) = (Authority::new(), Authority::new());
        let own = authority.leaf(SERVER, ExtendedKeyUsagePurpose::ServerAuth);
        let certificates = Certificates::new(&own.certificate, &own.key).unwrap();
        certificates.trust(front_proxy(&proxies)).unwrap();
        let (shelf, says, cancel) = (Arc::<Shelf>::default(), Arc::<Says>::default(), CancellationToken::new());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(shelf.clone(), Arc::new(Voice(says.clone())), limits, |_| {});
        tokio::spawn(server.serve(listener, certificates.clone(), cancel.clone()));
        Self { address, authority, proxies, shelf, says, certificates, cancel }
    }

    /// With a small cluster.
    pub(crate) async fn filled() -> Self {
        let rig = Self::new().await;
        fill(&rig.shelf);
        rig
    }

    /// Ends the server.
    pub(crate) fn stop(&self) {
        self.cancel.cancel();
    }

    /// A connection, with the certificate of a front proxy or without one.
    pub(crate) async fn connect(&self, shown: Option<&Leaf>) -> std::io::Result<Caller> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(SERVER).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let io = TokioIo::new(stream);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Caller(sender))
    }

    /// The API server's front proxy.
    pub(crate) async fn front_proxy(&self) -> Caller {
        let leaf = self.proxies.leaf("front-proxy-client", ExtendedKeyUsagePurpose::ClientAuth);
        self.connect(Some(&leaf)).await.unwrap()
    }
}

pub(crate) fn front_proxy(authority: &Authority) -> FrontProxy {
    let pairs = [
        ("requestheader-client-ca-file", authority.pem.as_str()),
        ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
        ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
    ];
    FrontProxy::parse(&pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()).unwrap()
}

#[derive(Clone)]
pub(crate) struct Caller(SendRequest<Empty<Bytes>>);

impl Caller {
    pub(crate) async fn send(&mut self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }

    /// Status, headers and the whole body.
    pub(crate) async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> (http::response::Parts, String) {
        let (parts, body) = self.send(request(path, headers)).await.unwrap().into_parts();
        (parts, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }
}

pub(crate) fn request(path: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let request = Request::get(format!("https://{SERVER}{path}"));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Empty::new()).unwrap()
}

fn plain(pairs: &[(&str, &str)]) -> PlainLabels {
    pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

fn addresses(texts: &[&str]) -> PackedSet<std::net::IpAddr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

/// An endpoint; with a number if it is compiled.
pub(crate) fn endpoint(namespace: &str, name: &str, number: Option<u32>, node: &str, address: &[&str]) -> Endpoint {
    let app = name.split('-').next().unwrap_or(name);
    let pod = Pod {
        namespace: namespace.into(),
        name: name.into(),
        uid: format!("uid-{name}").into(),
        labels: plain(&[("app", app), ("pod-template-hash", "77f")]),
        annotations: PlainLabels::default(),
        service_account: "default".into(),
        node: node.into(),
        addresses: addresses(address),
        named_ports: axoneme_model::world::NamedPorts::default(),
    };
    let policy = number.map(|number| EndpointPolicy {
        identity: Number(number),
        table: TableId(0xabc),
        labels: labels(namespace, app),
        pools: [Arc::default(), Arc::default()],
        ingress: Stance::Isolated,
        egress: Stance::Open,
    });
    Endpoint { pod: Arc::new(pod), policy }
}

fn labels(namespace: &str, app: &str) -> Labels {
    Labels::new()
        .with(LabelKey::k8s("app"), app)
        .with(LabelKey::k8s(names::NAMESPACE), namespace)
        .with(LabelKey::k8s(names::SERVICE_ACCOUNT), "default")
}

pub(crate) fn keyed<T: View>(view: T) -> (axoneme_views::kinds::Key, Option<T>) {
    (view.key(), Some(view))
}

pub(crate) fn fill(shelf: &Shelf) {
    let endpoints = [
        endpoint("a", "web-1", Some(4711), "n1", &["10.0.0.1", "fd00::1"]),
        endpoint("a", "web-2", Some(4711), "n2", &["10.0.1.1"]),
        endpoint("a", "db-1", Some(4712), "n1", &["10.0.0.2"]),
        endpoint("b", "web-1", None, "", &[]),
    ];
    shelf.endpoints.apply(endpoints.map(keyed));
    let identities = [
        Identity { id: Number(1), labels: Number(1).reserved_labels().unwrap(), endpoints: 0 },
        Identity { id: Number(4711), labels: labels("a", "web"), endpoints: 2 },
        Identity { id: Number(4712), labels: labels("a", "db"), endpoints: 1 },
    ];
    shelf.identities.apply(identities.map(keyed));
    let node = |name: &str| Node {
        name: name.into(),
        labels: plain(&[("kubernetes.io/hostname", name)]),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        pod_cidrs: vec!["10.0.0.0/24".parse().unwrap()],
        endpoints: 2,
        connected: true,
        ready: true,
        acknowledged: Some(17),
        ..Node::default()
    };
    let nodes = [
        node("n1"),
        Node { refused: vec!["table 0000000000000abc: too large".to_owned()], ..node("n2") },
        Node { connected: false, ready: false, acknowledged: None, ..node("n3") },
    ];
    shelf.nodes.apply(nodes.map(keyed));
    let policies = [
        (ObjectRef::new(Kind::NetworkPolicy, "a", "web"), 3),
        (ObjectRef::new(Kind::CiliumClusterwideNetworkPolicy, "", "dns"), 1),
    ];
    let content = Content { ingress: Stance::Isolated, egress: Stance::Open, entries: 12, policies: policies.into() };
    let table = PolicyTable { namespace: "a".into(), id: TableId(0xabc), endpoints: 3, content: Arc::new(content) };
    shelf.policy_tables.apply([keyed(table)]);
    shelf.completed();
    shelf.lead(true);
}
