//! HTTP checks. Must not verify certificates: whoever answers on the
//! container's port is the container.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::check::{OUTPUT, Verdict, dial_error, join};

/// How probes name themselves.
pub(super) const AGENT: &str = "kube-probe/1.36";
/// Longest chain of redirects.
const REDIRECTS: usize = 10;

/// A request and what is good about its answer.
pub(super) struct HttpCheck {
    place: Place,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl HttpCheck {
    pub(super) fn new(action: &HTTPGetAction, host: String, port: u16) -> Self {
        let tls = action
            .scheme
            .as_deref()
            .is_some_and(|s| s.eq_ignore_ascii_case("https"));
        let mut headers = Vec::new();
        for header in action.http_headers.iter().flatten() {
            if let (Ok(name), Ok(value)) = (header.name.parse(), HeaderValue::from_str(&header.value)) {
                headers.push((name, value));
            }
        }
        let path = escaped(action.path.as_deref().unwrap_or_default());
        HttpCheck {
            place: Place { tls, host, port, path },
            headers,
        }
    }

    pub(super) async fn run(&self, timeout: Duration) -> Verdict {
        match tokio::time::timeout(timeout, self.ask()).await {
            Ok(Ok(())) => Verdict::Success,
            Ok(Err(why)) => Verdict::Failure(why),
            Err(_) => Verdict::Failure(format!(
                "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                self.place.url()
            )),
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let mut place = self.place.clone();
        for _ in 0..=REDIRECTS {
            let response = self
                .get(&place)
                .await
                .map_err(|e| format!("Get {:?}: {e}", place.url()))?;
            let status = response.status();
            let next = redirect(&response).map(|location| place.follow(location));
            // What is left unread does not matter: the status decides.
            let body = http_body_util::Limited::new(response.into_body(), OUTPUT).collect();
            if let Err(e) = body.await
                && e.downcast_ref::<http_body_util::LengthLimitError>().is_none()
            {
                return Err(e.to_string());
            }
            match next {
                Some(Some(there)) => place = there,
                // A redirect that leads away is not followed, and is as good as an answer.
                Some(None) => return Ok(()),
                None if status.is_success() || status.is_redirection() => return Ok(()),
                None => return Err(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
            }
        }
        Err(format!(
            "Get {:?}: stopped after {REDIRECTS} redirects",
            self.place.url()
        ))
    }

    async fn get(&self, place: &Place) -> Result<Response<Incoming>, String> {
        let address = join(&place.host, place.port);
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await;
        let stream = stream.map_err(|e| dial_error(&address, &e))?;
        let request = self.request(place).map_err(|e| e.to_string())?;
        if !place.tls {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(place.host.clone()).map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(Arc::new(trusting()?));
        let tls = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        exchange(tls, request).await
    }

    fn request(&self, place: &Place) -> Result<Request<Empty<Bytes>>, http::Error> {
        let mut request = Request::get(place.path.as_str()).body(Empty::new())?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
        if !headers.contains_key(header::HOST) {
            headers.insert(header::HOST, HeaderValue::from_str(&place.authority())?);
        }
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(AGENT));
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(request)
    }
}

impl Place {
    fn authority(&self) -> String {
        join(&self.host, self.port)
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    /// Where a `Location` leads, unless to another host.
    fn follow(&self, location: &str) -> Option<Place> {
        if !location.contains("://") {
            let path = if location.starts_with('/') {
                location.to_owned()
            } else {
                let base = self.path.split('?').next().unwrap_or("/");
                let directory = base.rfind('/').map_or("/", |at| &base[..=at]);
                format!("{directory}{location}")
            };
            return Some(Place { path, ..self.clone() });
        }
        let uri: Uri = location.parse().ok()?;
        let host = uri.host()?;
        if host.trim_matches(['[', ']']) != self.host {
            return None;
        }
        let tls = uri.scheme_str().map_or(self.tls, |s| s == "https");
        Some(Place {
            tls,
            host: self.host.clone(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        })
    }
}

fn redirect(response: &Response<Incoming>) -> Option<&str> {
    let followed = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = response.headers().get(header::LOCATION).filter(|_| followed);
    location.and_then(|l| l.to_str().ok())
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let told = |e: hyper::Error| {
        if e.is_incomplete_message() {
            "EOF".to_owned()
        } else {
            e.to_string()
        }
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(told)?;
    // Ends with the answer, since no more requests are sent on this connection.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(told)
}

/// Escapes what a path cannot hold as it is.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.split('#').next().unwrap_or_default().bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn trusting() -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = config.map_err(|e| e.to_string())?;
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(schemes)));
    Ok(config.with_no_client_auth())
}

/// Accepts every certificate. With no name to hold it against, checking its signature
/// would prove nothing either.
#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_with_the_host() {
        let place = Place {
            tls: false,
            host: "10.0.0.1".into(),
            port: 8080,
            path: "/a/b?c".into(),
        };
        assert_eq!(place.follow("/x").unwrap().url(), "http://10.0.0.1:8080/x");
        assert_eq!(place.follow("x").unwrap().url(), "http://10.0.0.1:8080/a/x");
        assert_eq!(
            place.follow("https://10.0.0.1/x").unwrap().url(),
            "https://10.0.0.1:443/x"
        );
        assert_eq!(place.follow("http://example.org/"), None);
    }

    #[test]
    fn paths_are_made_fit_for_a_request() {
        assert_eq!(escaped(""), "/");
        assert_eq!(escaped("healthz?a=b c"), "/healthz?a=b%20c");
        assert_eq!(escaped("/é#x"), "/%C3%A9");
    }
}
