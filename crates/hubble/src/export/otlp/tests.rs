//! Against a collector that speaks TLS on a port of its own.

use std::sync::Mutex;

use tonic::{
    Request, Response,
    transport::{Server, ServerTlsConfig, server::TcpIncoming},
};

use super::*;
use crate::pb::otlp::{
    ExportLogsServiceResponse,
    logs_service_server::{LogsService, LogsServiceServer},
};

const TOKEN: &str = "Bearer of the first day";
const NEXT: &str = "Bearer of the second day";

/// An authority and what it signs.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Lets in who shows the token of the day, and counts records.
#[derive(Clone, Default)]
struct Backend {
    token: Arc<Mutex<String>>,
    records: Arc<Mutex<usize>>,
}

#[tonic::async_trait]
impl LogsService for Backend {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let shown = request.metadata().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        if shown.unwrap_or_default() != *self.token.lock().unwrap() {
            return Err(Status::unauthenticated("who are you?"));
        }
        let scopes = request.into_inner().resource_logs.into_iter().flat_map(|r| r.scope_logs);
        *self.records.lock().unwrap() += scopes.map(|s| s.log_records.len()).sum::<usize>();
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

struct Rig {
    backend: Backend,
    directory: tempfile::TempDir,
    authority: Authority,
    port: u16,
}

impl Rig {
    /// A collector of that name, which wants certificates of its own authority from its clients.
    async fn new(name: &str) -> Self {
        let authority = Authority::new("ours");
        let (certificate, key) = authority.sign(name);
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(&authority.pem));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let backend = Backend::default();
        TOKEN.clone_into(&mut backend.token.lock().unwrap());
        let service = LogsServiceServer::new(backend.clone());
        let server = Server::builder().tls_config(tls).unwrap().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let rig = Self { backend, directory: tempfile::tempdir().unwrap(), authority, port };
        rig.put("ca.crt", &rig.authority.pem);
        let (certificate, key) = rig.authority.sign("n1");
        rig.put("tls.crt", &certificate);
        rig.put("tls.key", &key);
        rig.put("headers", &format!("authorization: {TOKEN}\n"));
        rig
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn sender(&self) -> Sender {
        let file = |name: &str| Some(self.directory.path().join(name));
        let files =
            Files { ca: file("ca.crt"), certificate: file("tls.crt"), key: file("tls.key"), headers: file("headers") };
        let to = Collector::new(&format!("https://localhost:{}", self.port), files).unwrap();
        Sender::new("otlp", to, ("prod", "n1"), Arc::default(), CancellationToken::new())
    }

    fn records(&self) -> usize {
        *self.backend.records.lock().unwrap()
    }
}

fn batch(records: usize) -> ExportLogsServiceRequest {
    let log_records = vec![LogRecord::default(); records];
    let scope_logs = vec![ScopeLogs { scope: None, log_records }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { resource: None, scope_logs }] }
}

#[tokio::test]
async fn records_go_by_tls_with_the_headers_of_the_file_as_it_is_now() {
    let rig = Rig::new("localhost").await;
    let mut sender = rig.sender();
    assert!(matches!(sender.send(batch(3)).await, Ok(0)));
    assert_eq!(rig.records(), 3);
    // another token: the old one is refused for good, the new one counts at once and on the same connection
    NEXT.clone_into(&mut rig.backend.token.lock().unwrap());
    let Err(Fault::Never(error)) = sender.send(batch(1)).await else { panic!("let in by the token of yesterday") };
    assert!(error.contains("Unauthenticated: who are you?") && !error.contains("Bearer"), "{error}");
    rig.put("headers", &format!("authorization: {NEXT}\n"));
    assert!(matches!(sender.send(batch(2)).await, Ok(0)));
    assert_eq!(rig.records(), 5);
    // no file: flows wait for it
    std::fs::remove_file(rig.directory.path().join("headers")).unwrap();
    let Err(Fault::Again(error)) = sender.send(batch(1)).await else { panic!("without its headers") };
    assert!(error.contains("headers of") && error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn a_collector_of_another_authority_or_name_is_refused_and_the_reason_is_told() {
    let rig = Rig::new("localhost").await;
    let ours = rig.authority.pem.clone();
    rig.put("ca.crt", &Authority::new("another").pem);
    let Err(Fault::Again(error)) = rig.sender().send(batch(1)).await else { panic!("another authority is believed") };
    assert!(error.contains("certificate does not hold") && error.contains("ca.crt"), "{error}");
    assert!(error.contains("UnknownIssuer"), "{error}");
    rig.put("ca.crt", &ours);
    assert!(matches!(rig.sender().send(batch(1)).await, Ok(0)), "and its own is");
    let other = Rig::new("elsewhere.example").await;
    let Err(Fault::Again(error)) = other.sender().send(batch(1)).await else { panic!("another name is believed") };
    assert!(error.contains("certificate does not hold") && error.contains("elsewhere.example"), "{error}");
    assert_eq!((rig.records(), other.records()), (1, 0));
}

#[tokio::test]
async fn what_keeps_a_connection_from_being_made_is_told() {
    let rig = Rig::new("localhost").await;
    // no certificate that the collector believes
    let (certificate, key) = Authority::new("another").sign("n1");
    rig.put("tls.crt", &certificate);
    rig.put("tls.key", &key);
    assert!(matches!(rig.sender().send(batch(1)).await, Err(Fault::Again(_))));
    rig.put("ca.crt", "no certificate");
    assert!(matches!(rig.sender().send(batch(1)).await, Err(Fault::Again(_))));
    let nobody = Collector::new("http://127.0.0.1:1", Files::default()).unwrap();
    let mut sender = Sender::new("otlp", nobody, ("", "n1"), Arc::default(), CancellationToken::new());
    let Err(Fault::Again(error)) = sender.send(batch(1)).await else { panic!("nobody answers") };
    assert!(error.contains("refused"), "{error}");
    assert_eq!(rig.records(), 0);
}
