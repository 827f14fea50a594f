//! The web front of the farm shop: shows the stock that a PostgreSQL in a
//! virtual machine keeps, and takes orders.
//!
//! An example, not a product: it must stay small enough to be read in a minute.

mod page;
mod stock;

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, LOCATION};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use stock::Stock;

const PORT: u16 = 8080;
/// Largest order form.
const FORM_MAX: usize = 4096;

/// How long nobody must have come before the door is closed, and how long it stays open at most.
/// Visitors may still be sent here for a moment after we were asked to stop.
const QUIET: Duration = Duration::from_millis(500);
const DRAIN: Duration = Duration::from_secs(5);
/// How long those who are inside may take.
const FINISH: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
        .await
        .context("listen")?;
    println!("farm shop {} listens on port {PORT}", page::version());
    let front = Front {
        shop: Arc::new(Shop {
            stock: Stock::from_environment(),
            closing: AtomicBool::new(false),
        }),
        server: Builder::new(TokioExecutor::new()),
        open: GracefulShutdown::new(),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            stream = accept(&listener) => front.serve(stream),
            _ = terminate.recv() => break,
        }
    }
    println!("asked to stop: finishing what was begun");
    front.shop.closing.store(true, Ordering::Relaxed);
    let end = Instant::now() + DRAIN;
    while Instant::now() < end {
        match timeout(QUIET, accept(&listener)).await {
            Ok(stream) => front.serve(stream),
            Err(_) => break,
        }
    }
    drop(listener);
    let _ = timeout(FINISH, front.open.shutdown()).await;
    Ok(())
}

/// The next visitor. One who is gone again, or one too many, does not end the shop.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

struct Shop {
    stock: Stock,
    closing: AtomicBool,
}

struct Front {
    shop: Arc<Shop>,
    server: Builder<TokioExecutor>,
    open: GracefulShutdown,
}

impl Front {
    fn serve(&self, stream: TcpStream) {
        let shop = self.shop.clone();
        let service = service_fn(move |request| {
            let shop = shop.clone();
            async move { Ok::<_, Infallible>(answer(&shop, request).await) }
        });
        let connection = self.server.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = self.open.watch(connection);
        tokio::spawn(async move {
            // A browser that goes away is no error of ours.
            let _ = connection.await;
        });
    }
}

async fn answer(shop: &Shop, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let is_http_1 = request.version() <= Version::HTTP_11;
    let response = route(shop, request).await;
    if is_http_1 && shop.closing.load(Ordering::Relaxed) {
        // The next request of this visitor belongs to another replica.
        return with_header(response, CONNECTION, "close");
    }
    response
}

async fn route(shop: &Shop, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => html(page::shop(&shop.stock.items().await)),
        (&Method::GET, "/stock") => match shop.stock.items().await.fresh() {
            Ok(items) => json(StatusCode::OK, serde_json::json!(items)),
            Err(why) => json(StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({"error": why})),
        },
        (&Method::GET, "/readyz") if shop.closing.load(Ordering::Relaxed) => {
            text(StatusCode::SERVICE_UNAVAILABLE, "closing\n")
        }
        (&Method::GET, "/healthz" | "/readyz") => text(StatusCode::OK, "ok\n"),
        (&Method::POST, "/order") => order(&shop.stock, request).await,
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

async fn order(stock: &Stock, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Ok(form) = Limited::new(request.into_body(), FORM_MAX).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the form is too long\n");
    };
    let Some(name) = product(&form.to_bytes()) else {
        return text(StatusCode::BAD_REQUEST, "the form names no product\n");
    };
    match stock.take_one(&name).await {
        Ok(true) => with_header(text(StatusCode::SEE_OTHER, ""), LOCATION, "/"),
        Ok(false) => text(StatusCode::CONFLICT, "sold out\n"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
    }
}

/// The product that an order form names.
fn product(form: &[u8]) -> Option<String> {
    let mut fields = form_urlencoded::parse(form);
    fields
        .find(|(key, _)| key == "name")
        .map(|(_, value)| value.into_owned())
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response
}

fn html(body: String) -> Response<Full<Bytes>> {
    with_header(text(StatusCode::OK, &body), CONTENT_TYPE, "text/html; charset=utf-8")
}

fn json(status: StatusCode, value: serde_json::Value) -> Response<Full<Bytes>> {
    with_header(text(status, &value.to_string()), CONTENT_TYPE, "application/json")
}

fn with_header(
    mut response: Response<Full<Bytes>>,
    name: hyper::header::HeaderName,
    value: &'static str,
) -> Response<Full<Bytes>> {
    response
        .headers_mut()
        .insert(name, hyper::header::HeaderValue::from_static(value));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_browsers_write_it() {
        assert_eq!(product(b"name=Honey%2C+500+g").as_deref(), Some("Honey, 500 g"));
        assert_eq!(product(b"a=b&name=K%C3%A4se").as_deref(), Some("K\u{e4}se"));
        assert_eq!(product(b"Honey"), None);
    }
}
