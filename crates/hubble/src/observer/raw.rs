//! `GetFlows` with lines that are bytes already; all other calls go on to the generated server.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
    codegen::Service as Call,
    server::{Grpc, NamedService, ServerStreamingService},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::{Responses, Service};
use crate::{
    pb::observer::{GetFlowsRequest, GetFlowsResponse, observer_server::ObserverServer},
    walk::Encoded,
};

const GET_FLOWS: &str = "/observer.Observer/GetFlows";

/// The observer of a node as its server has it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    service: Service,
    others: ObserverServer<Service>,
    max_request: usize,
}

impl Server {
    /// Takes requests of up to so many bytes.
    pub(crate) fn new(service: Service, max_request: usize) -> Self {
        let others = ObserverServer::new(service.clone()).max_decoding_message_size(max_request);
        Self { service, others, max_request }
    }
}

impl NamedService for Server {
    const NAME: &'static str = <ObserverServer<Service> as NamedService>::NAME;
}

impl Call<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != GET_FLOWS {
            return self.others.call(request);
        }
        let (method, limit) = (GetFlows(Arc::new(self.service.clone())), self.max_request);
        Box::pin(async move {
            let mut grpc = Grpc::new(Lines).apply_max_message_size_config(Some(limit), None);
            Ok(grpc.server_streaming(method, request).await)
        })
    }
}

struct GetFlows(Arc<Service>);

impl ServerStreamingService<GetFlowsRequest> for GetFlows {
    type Response = Encoded;
    type ResponseStream = Responses<Encoded>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<GetFlowsRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.flows(&request) })
    }
}

/// Requests as messages, lines as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Lines;

impl Codec for Lines {
    type Encode = Encoded;
    type Decode = GetFlowsRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<GetFlowsRequest>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<GetFlowsResponse, GetFlowsRequest>::raw_decoder(BufferSettings::default())
    }
}

impl Encoder for Lines {
    type Item = Encoded;
    type Error = Status;

    fn encode(&mut self, line: Encoded, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(to, &line.0);
        Ok(())
    }
}
