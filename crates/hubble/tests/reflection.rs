//! A client that knows nothing of the API but what the server tells of it: what grpcurl and its like do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeSet, VecDeque};

use axoneme_hubble::pb::observer::{GetFlowsRequest, GetFlowsResponse};
use common::{Rig, records};
use http::uri::PathAndQuery;
use prost::{
    Message as _,
    bytes::{Buf as _, BufMut as _},
};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, Value};
use prost_types::FileDescriptorProto;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use tonic_reflection::pb::{v1, v1alpha};

async fn channel(rig: &Rig) -> Channel {
    Endpoint::from_shared(format!("unix://{}", rig.socket.display())).unwrap().connect().await.unwrap()
}

/// One question of reflection, in its newer form.
async fn ask(
    channel: &Channel,
    question: v1::server_reflection_request::MessageRequest,
) -> v1::server_reflection_response::MessageResponse {
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let request = v1::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut answers = client.server_reflection_info(tokio_stream(request)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().message_response.unwrap()
}

/// A stream of one.
fn tokio_stream<T: Send + 'static>(one: T) -> impl futures::Stream<Item = T> + Send + 'static {
    futures::stream::iter([one])
}

async fn services(channel: &Channel) -> BTreeSet<String> {
    let question = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = ask(channel, question).await
    else {
        panic!("no list of services")
    };
    list.service.into_iter().map(|s| s.name).collect()
}

/// Everything that a service needs, file by file as its imports name them.
async fn learn(channel: &Channel, service: &str) -> DescriptorPool {
    use v1::server_reflection_request::MessageRequest as Ask;
    let (mut files, mut asked) = (Vec::<FileDescriptorProto>::new(), BTreeSet::new());
    let mut questions = VecDeque::from([Ask::FileContainingSymbol(service.to_owned())]);
    while let Some(question) = questions.pop_front() {
        let v1::server_reflection_response::MessageResponse::FileDescriptorResponse(found) =
            ask(channel, question).await
        else {
            panic!("no file")
        };
        for bytes in found.file_descriptor_proto {
            let file = FileDescriptorProto::decode(&*bytes).unwrap();
            let imports = file.dependency.iter().filter(|f| asked.insert((*f).clone()));
            questions.extend(imports.cloned().map(Ask::FileByFilename));
            if files.iter().all(|f| f.name() != file.name()) {
                files.push(file);
            }
        }
    }
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_protos(files).unwrap();
    pool
}

/// Messages of kinds that are known at run time only.
#[derive(Clone)]
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item.encode_to_vec());
        Ok(())
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        DynamicMessage::decode(self.0.clone(), bytes).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}

async fn call(channel: &Channel, method: &MethodDescriptor, json: &[(&str, Value)]) -> Streaming<DynamicMessage> {
    let mut request = DynamicMessage::new(method.input());
    for (field, value) in json {
        request.set_field_by_name(field, value.clone());
    }
    let path: PathAndQuery = format!("/{}/{}", method.parent_service().full_name(), method.name()).parse().unwrap();
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let answer = client.server_streaming(Request::new(request), path, Dynamic(method.output())).await;
    answer.unwrap().into_inner()
}

#[tokio::test]
async fn a_client_that_learns_the_api_from_the_server_reads_the_same_flows() {
    let mut rig = Rig::new(256).await;
    rig.push(&records(60));
    let channel = channel(&rig).await;
    let known = services(&channel).await;
    for service in ["observer.Observer", "peer.Peer", "grpc.health.v1.Health"] {
        assert!(known.contains(service), "{known:?}");
    }
    let pool = learn(&channel, "observer.Observer").await;
    let observer = pool.get_service_by_name("observer.Observer").unwrap();
    let methods: BTreeSet<_> = observer.methods().map(|m| m.name().to_owned()).collect();
    for method in ["GetFlows", "GetAgentEvents", "GetDebugEvents", "GetNodes", "GetNamespaces", "ServerStatus"] {
        assert!(methods.contains(method), "{methods:?}");
    }
    // the same question, by what was learned and by what is compiled in
    let flows = observer.methods().find(|m| m.name() == "GetFlows").unwrap();
    let mut learned = Vec::new();
    let mut stream = call(&channel, &flows, &[("first", Value::Bool(true)), ("number", Value::U64(40))]).await;
    while let Some(line) = stream.message().await.unwrap() {
        let flow = line.get_field_by_name("flow").unwrap();
        let flow = flow.as_message().unwrap();
        assert!(flow.get_field_by_name("uuid").unwrap().as_str().is_some_and(|id| !id.is_empty()));
        learned.push(GetFlowsResponse::decode(&*line.encode_to_vec()).unwrap());
    }
    let request = GetFlowsRequest { first: true, number: 40, ..GetFlowsRequest::default() };
    let mut typed = rig.client().await.get_flows(request).await.unwrap().into_inner();
    for line in &learned {
        assert_eq!(typed.message().await.unwrap().as_ref(), Some(line));
    }
    assert_eq!((learned.len(), typed.message().await.unwrap()), (40, None));
    // and what it learned of peers
    let pool = learn(&channel, "peer.Peer").await;
    let notify = pool.get_service_by_name("peer.Peer").unwrap().methods().next().unwrap();
    let mut peers = call(&channel, &notify, &[]).await;
    let first = peers.message().await.unwrap().unwrap();
    assert_eq!(first.get_field_by_name("name").unwrap().as_str(), Some("prod/n1"));
}

#[tokio::test]
async fn older_clients_of_reflection_are_answered_too_and_a_wrong_name_is_said_to_be_one() {
    use v1alpha::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
    let rig = Rig::new(16).await;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel(&rig).await);
    let mut ask = async |question| {
        let request = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let mut answers = client.server_reflection_info(tokio_stream(request)).await?.into_inner();
        answers.message().await
    };
    let found = ask(MessageRequest::FileContainingSymbol("flow.Flow".to_owned())).await.unwrap().unwrap();
    assert!(
        matches!(found.message_response, Some(MessageResponse::FileDescriptorResponse(f)) if f.file_descriptor_proto.len() == 1)
    );
    let code = match ask(MessageRequest::FileContainingSymbol("flow.Nothing".to_owned())).await {
        Err(status) => status.code(),
        Ok(Some(answer)) => match answer.message_response {
            Some(MessageResponse::ErrorResponse(error)) => Code::from(error.error_code),
            other => panic!("{other:?}"),
        },
        Ok(None) => panic!("no answer"),
    };
    assert_eq!(code, Code::NotFound);
}
