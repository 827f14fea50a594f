//! The members of an etcd: a connection to each, which of them is asked first, and when another is
//! asked instead. It must not repeat a write that may have been done.

use super::{Options, Tls};
use crate::error::{Error, Result};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Least time that one member gets for a read before another is asked.
const LEAST: Duration = Duration::from_millis(500);

/// Whether a request may be made twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It only reads.
    Always,
    /// It writes: only if it has certainly not been sent.
    IfUnsent,
}

/// Connections to all members, made when first used and again after they broke.
pub(super) struct Members {
    all: Vec<Client>,
    /// Who is asked first: whoever answered last.
    preferred: AtomicUsize,
    timeout: Duration,
    /// All URLs, for messages.
    pub names: Arc<str>,
    /// `https` without a certificate of our own.
    unnamed: bool,
}

impl Members {
    /// Checks the URLs and reads the certificates; does not connect yet.
    pub(super) async fn new(options: &Options) -> Result<Self> {
        let names: Arc<str> = options.endpoints.join(",").into();
        if options.endpoints.is_empty() {
            return Err(Error::Settings("no URL of an etcd member is given".into()));
        }
        let mut all = Vec::new();
        for url in &options.endpoints {
            let secure = check_url(url)?;
            let mut connect = ConnectOptions::new()
                .with_connect_timeout(options.timeout)
                .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
                .with_keep_alive_while_idle(true)
                .with_require_leader(true);
            match (&options.tls, secure) {
                (Some(tls), true) => connect = connect.with_tls(tls_options(tls)),
                (Some(_), false) => {
                    return Err(Error::Settings(format!(
                        "certificates are given, but {url} is not https"
                    )));
                }
                (None, true) => return Err(Error::Settings(format!("{url} is https, but no authority is given"))),
                (None, false) => {}
            }
            // One client each: a client of several asks any of them, also those that are down.
            let client = Client::connect([url], Some(connect)).await;
            all.push(client.map_err(|e| Error::Settings(format!("{url}: {}", explain(&e))))?);
        }
        Ok(Self {
            all,
            preferred: AtomicUsize::new(0),
            timeout: options.timeout,
            names,
            unnamed: options.tls.as_ref().is_some_and(|tls| tls.identity.is_none()),
        })
    }

    /// The member to use for what is not a single request, such as a watch.
    pub(super) fn preferred(&self) -> (usize, &Client) {
        let at = self.preferred.load(Ordering::Relaxed) % self.all.len();
        (at, &self.all[at])
    }

    /// Member `at` failed: the next one is asked first, unless another has been found meanwhile.
    pub(super) fn failed(&self, at: usize) {
        let next = (at + 1) % self.all.len();
        let _ = self
            .preferred
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Makes a request of one member after the other until one answers, or time is up.
    pub(super) async fn call<T, F>(&self, repeat: Repeat, request: impl Fn(usize, Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let until = Instant::now() + self.timeout;
        let share = (self.timeout / u32::try_from(self.all.len()).unwrap_or(1)).max(LEAST);
        // Once around, and the first again: its connection may have been an old one.
        let mut tries = self.all.len() + 1;
        loop {
            tries -= 1;
            let (at, client) = self.preferred();
            let end = match repeat {
                Repeat::Always if tries > 0 => until.min(Instant::now() + share),
                _ => until,
            };
            let failure = match timeout_at(end, request(at, client.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Failure::of(error),
                Err(_) => Failure::Silent,
            };
            let again = match (&failure, repeat) {
                (Failure::Refused(_), _) => false,
                (Failure::Unsent(_), _) => true,
                (Failure::Unclear(_) | Failure::Silent, repeat) => repeat == Repeat::Always,
            };
            if !matches!(failure, Failure::Refused(_)) {
                self.failed(at);
            }
            if !again || tries == 0 || Instant::now() >= until {
                return Err(failure);
            }
        }
    }

    /// What a failed request means to the store's user.
    pub(super) fn error(&self, failure: Failure) -> Error {
        let place = self.names.to_string();
        let (Failure::Refused(error) | Failure::Unsent(error) | Failure::Unclear(error)) = failure else {
            let why = format!("no answer within {} s", self.timeout.as_secs_f32());
            return Error::Unavailable { endpoint: place, why };
        };
        // etcd tells its errors apart by their text only.
        let text = error.to_string();
        if text.contains("database space exceeded") {
            return Error::NoSpace { place };
        }
        if text.contains("too many operations in txn") || text.contains("request is too large") {
            return Error::Invalid(text);
        }
        let mut why = explain(&error);
        if self.unnamed && (why.contains("broken pipe") || why.contains("alert") || why.contains("closed")) {
            // It shows only by the connection being closed.
            why.push_str(" (perhaps it asks for a certificate, and none is given)");
        }
        Error::Unavailable { endpoint: place, why }
    }
}

/// Why a request failed, by what follows for the next.
#[derive(Debug)]
pub(super) enum Failure {
    /// etcd answered: asking another member would not help.
    Refused(etcd_client::Error),
    /// There was no connection, so the request was not sent.
    Unsent(etcd_client::Error),
    /// The connection broke, or the member has no leader: whether it was done is not known.
    Unclear(etcd_client::Error),
    /// No answer came in time.
    Silent,
}

impl Failure {
    fn of(error: etcd_client::Error) -> Self {
        let etcd_client::Error::GRpcStatus(status) = &error else {
            return Self::Unclear(error);
        };
        if of_connecting(status) || status.message().contains("no leader") {
            return Self::Unsent(error);
        }
        use tonic::Code;
        match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded => {
                Self::Unclear(error)
            }
            _ => Self::Refused(error),
        }
    }

    /// What etcd said.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Refused(error) | Self::Unsent(error) | Self::Unclear(error) => error.to_string(),
            Self::Silent => String::new(),
        }
    }
}

fn of_connecting(status: &tonic::Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The innermost cause in words: what stands around it is the client library's own structure.
pub(super) fn explain(error: &etcd_client::Error) -> String {
    use std::error::Error;
    let (mut cause, own) = match error {
        etcd_client::Error::GRpcStatus(status) => (status.source(), status.message().to_owned()),
        etcd_client::Error::TransportError(transport) => (transport.source(), transport.to_string()),
        other => return other.to_string(),
    };
    let mut words: Option<String> = None;
    while let Some(error) = cause {
        words = Some(error.to_string());
        // The TLS library hides its error in one of the system's.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    words.unwrap_or(own)
}

fn tls_options(tls: &Tls) -> TlsOptions {
    let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
    if let Some((certificate, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    config
}

/// Whether the URL is `https`; refuses what is no URL of a member.
fn check_url(url: &str) -> Result<bool> {
    let wrong = |why: &str| Error::Settings(format!("{url:?} is no URL of an etcd member: {why}"));
    let parsed: http::Uri = url.parse().map_err(|e| wrong(&format!("{e}")))?;
    let secure = match parsed.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong("it must begin with http:// or https://")),
    };
    if parsed.host().is_none_or(str::is_empty) || parsed.port_u16().is_none() {
        return Err(wrong("it needs a host and a port, such as https://10.0.0.1:2379"));
    }
    if !matches!(parsed.path(), "" | "/") {
        return Err(wrong("it must not have a path"));
    }
    Ok(secure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        assert!(matches!(check_url("https://a:2379"), Ok(true)));
        assert!(matches!(check_url("http://[::1]:2379/"), Ok(false)));
        for junk in [
            "",
            "a:2379",
            "ftp://a:1",
            "http://a",
            "http://:2379",
            "http://a:1/x",
            "http://a b:1",
            "mysql://x",
        ] {
            let error = check_url(junk).expect_err(junk).to_string();
            assert!(error.contains("no URL of an etcd member"), "{error}");
        }
    }
}
