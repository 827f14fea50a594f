//! The health check protocol of gRPC (`grpc.health.v1.Health/Check`), in plain text.
//! Must not know of any other service.

use std::net::SocketAddr;
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::check::Verdict;
use super::web::AGENT;

/// Which service is asked about; empty for the whole server.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// How it is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub(super) status: i32,
}

/// The protocol's states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Asks once.
pub(super) async fn check(address: SocketAddr, service: &str, timeout: Duration) -> Verdict {
    let seconds = timeout.as_secs();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).and_then(|e| e.user_agent(AGENT));
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(e) => return Verdict::Error(e.to_string()),
    };
    let deadline = tokio::time::Instant::now() + timeout;
    let channel = match tokio::time::timeout_at(deadline, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(_)) | Err(_) => {
            return Verdict::Failure(format!(
                "timeout: failed to connect service \"{address}\" within {seconds}s: context deadline exceeded"
            ));
        }
    };
    let mut client = Grpc::new(channel);
    let request = Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    let ask = async {
        let ready = client.ready().await;
        ready.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
        let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        client.unary(request, path, codec).await
    };
    match tokio::time::timeout_at(deadline, ask).await {
        Err(_) => Verdict::Failure(format!("timeout: health rpc did not complete within {seconds}s")),
        Ok(Err(e)) => Verdict::Failure(match e.code() {
            Code::Unimplemented => format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                e.message()
            ),
            Code::DeadlineExceeded => format!("timeout: health rpc did not complete within {seconds}s"),
            code => format!(
                "error: health rpc probe failed: rpc error: code = {code:?} desc = {}",
                e.message()
            ),
        }),
        Ok(Ok(answer)) => match answer.into_inner().status() {
            ServingStatus::Serving => Verdict::Success,
            other => {
                let name = match other {
                    ServingStatus::NotServing => "NOT_SERVING",
                    ServingStatus::ServiceUnknown => "SERVICE_UNKNOWN",
                    _ => "UNKNOWN",
                };
                Verdict::Failure(format!("service unhealthy (responded with {name:?})"))
            }
        },
    }
}
