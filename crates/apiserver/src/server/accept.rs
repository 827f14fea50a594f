//! What a client accepts: media type and form, negotiated from `Accept` with
//! its qualities. Must not write anything.

use http::HeaderValue;
use kinds::Kind;
use meta::{Reason, Status};

use super::form::{Form, Include};
use crate::wire::table::table;

/// A media type that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
    /// `application/cbor`.
    Cbor,
}

/// What a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The form.
    pub form: Form,
    /// How it is written.
    pub media: Media,
}

/// What can be offered to a client.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Whether there are messages for what is answered.
    pub protobuf: bool,
    /// Whether the answer is a watch.
    pub stream: bool,
}

/// One media range of `Accept`.
struct Clause<'a> {
    kind: &'a str,
    sub: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Media {
    const ALL: [Media; 4] = [Media::Json, Media::Yaml, Media::Protobuf, Media::Cbor];

    fn names(self) -> &'static [&'static str] {
        match self {
            Media::Json => &["json"],
            Media::Yaml => &["yaml"],
            Media::Protobuf => &["vnd.kubernetes.protobuf"],
            Media::Cbor => &["cbor", "cbor-seq"],
        }
    }

    /// `Content-Type` of an answer.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
            Media::Cbor => "application/cbor",
        })
    }

    /// `Content-Type` of a watch.
    pub fn stream_type(self) -> HeaderValue {
        match self {
            Media::Protobuf => HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch"),
            Media::Cbor => HeaderValue::from_static("application/cbor-seq"),
            other => other.content_type(),
        }
    }

    /// How an error is written: as the client accepts it, else in JSON.
    pub fn for_errors(accept: &str) -> Media {
        let offer = Offer {
            protobuf: true,
            stream: false,
        };
        clauses(accept)
            .iter()
            .find_map(|c| Media::ALL.into_iter().find(|m| offer.has(*m) && c.takes(*m)))
            .unwrap_or(Media::Json)
    }
}

impl Offer {
    /// What objects of a kind can be written as. Custom resources have no messages.
    pub fn of(kind: &Kind, stream: bool) -> Self {
        Offer {
            protobuf: !kind.custom && table().of_kind(&kind.gvr().api_version(), &kind.kind).is_some(),
            stream,
        }
    }

    fn has(self, media: Media) -> bool {
        match media {
            Media::Protobuf => self.protobuf,
            // A YAML document has no end that a reader of many could see.
            Media::Yaml => !self.stream,
            _ => true,
        }
    }

    fn refusal(self) -> Status {
        let served: Vec<String> = Media::ALL
            .into_iter()
            .filter(|m| self.has(*m))
            .map(|m| {
                let name = m.content_type().to_str().unwrap_or_default().to_owned();
                if self.stream {
                    format!("{name};stream=watch")
                } else {
                    name
                }
            })
            .collect();
        let message = format!("only the following media types are accepted: {}", served.join(", "));
        Status::new(406, Reason::NotAcceptable, message)
    }
}

impl Clause<'_> {
    fn takes(&self, media: Media) -> bool {
        match (self.kind, self.sub) {
            ("*", "*") | ("application", "*") => true,
            ("application", sub) => media.names().contains(&sub),
            _ => false,
        }
    }

    /// The form that its parameters ask for; none when there is no such form of this media type.
    fn form(&self, include: Include, media: Media, stream: bool) -> Option<Form> {
        let param = |name: &str| self.params.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        if param("stream").is_some_and(|s| s != "watch" || !stream) {
            return None;
        }
        match (param("as"), param("g").unwrap_or("meta.k8s.io")) {
            (None, _) => Some(Form::Plain),
            // There is no message for tables.
            (Some("Table"), "meta.k8s.io") if media != Media::Protobuf => Some(Form::Table(include)),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), "meta.k8s.io") => Some(Form::Metadata),
            _ => None,
        }
    }
}

/// The ranges of `Accept`, best first.
fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut out: Vec<Clause<'_>> = accept
        .split(',')
        .filter_map(|part| {
            let mut parts = part.split(';').map(str::trim);
            let (kind, sub) = match parts.next()? {
                "*" | "" => ("*", "*"),
                media => media.split_once('/')?,
            };
            let params: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
            let quality = params
                .iter()
                .find(|(n, _)| *n == "q")
                .map_or(Some(1.0), |(_, q)| q.parse().ok())?;
            Some(Clause {
                kind,
                sub,
                params,
                quality,
            })
        })
        .filter(|c| c.quality > 0.0)
        .collect();
    let stars = |c: &Clause<'_>| usize::from(c.kind == "*") + usize::from(c.sub == "*");
    out.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(stars(a).cmp(&stars(b))));
    out
}

impl Accepted {
    /// The best of what is offered; 406 when the client accepts nothing of it.
    pub fn negotiate(accept: &str, include: &str, offer: Offer) -> Result<Self, Status> {
        let include = match include {
            "" | "Metadata" => Include::Metadata,
            "None" => Include::Nothing,
            "Object" => Include::Object,
            other => {
                return Err(Status::bad_request(format!(
                    "unrecognized includeObject value: \"{other}\""
                )));
            }
        };
        for clause in clauses(accept) {
            for media in Media::ALL.into_iter().filter(|m| clause.takes(*m)) {
                let form = clause.form(include, media, offer.stream);
                // Metadata has a message, whatever it is the metadata of.
                let form = form.filter(|f| offer.has(media) || (media == Media::Protobuf && *f == Form::Metadata));
                if let Some(form) = form {
                    return Ok(Accepted { form, media });
                }
            }
        }
        Err(offer.refusal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(accept: &str, protobuf: bool, stream: bool) -> Result<(Form, Media), String> {
        Accepted::negotiate(accept, "", Offer { protobuf, stream })
            .map(|a| (a.form, a.media))
            .map_err(|e| e.message)
    }

    #[test]
    fn the_best_of_what_is_accepted_is_taken() {
        let plain = |media| Ok((Form::Plain, media));
        for (accept, expected) in [
            ("", Media::Json),
            ("*/*", Media::Json),
            ("application/vnd.kubernetes.protobuf, application/json", Media::Protobuf),
            (
                "application/vnd.kubernetes.protobuf;q=0.5, application/json",
                Media::Json,
            ),
            ("text/html, application/*;q=0.8", Media::Json),
            ("*/*;q=0.1, application/cbor;q=0.2", Media::Cbor),
            ("*/*, application/yaml", Media::Yaml),
            ("application/json;q=0, application/yaml", Media::Yaml),
            (
                "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1, application/cbor",
                Media::Cbor,
            ),
        ] {
            assert_eq!(choose(accept, true, false), plain(expected), "{accept}");
        }
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(
            choose(kubectl, true, false),
            Ok((Form::Table(Include::Metadata), Media::Json))
        );
        let informer = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(choose(informer, true, false), Ok((Form::Metadata, Media::Protobuf)));
        assert_eq!(choose(informer, false, true), Ok((Form::Metadata, Media::Protobuf)));
        assert_eq!(
            choose("application/vnd.kubernetes.protobuf,application/json", false, true),
            plain(Media::Json)
        );
        assert_eq!(choose("application/cbor-seq", false, true), plain(Media::Cbor));
        assert_eq!(
            choose("application/vnd.kubernetes.protobuf;stream=watch", true, true),
            plain(Media::Protobuf)
        );
    }

    #[test]
    fn a_refusal_says_what_there_is() {
        assert_eq!(
            choose("text/html", true, false).unwrap_err(),
            "only the following media types are accepted: application/json, application/yaml, \
             application/vnd.kubernetes.protobuf, application/cbor"
        );
        assert_eq!(
            choose("application/vnd.kubernetes.protobuf", false, true).unwrap_err(),
            "only the following media types are accepted: application/json;stream=watch, application/cbor;stream=watch"
        );
        assert!(choose("application/json;as=Nonsense", true, false).is_err());
        assert!(choose("application/json;stream=watch", true, false).is_err());
        assert!(choose("application/yaml", true, true).is_err());
    }

    #[test]
    fn an_error_is_written_as_the_client_accepts_it() {
        assert_eq!(
            Media::for_errors("application/vnd.kubernetes.protobuf;stream=watch"),
            Media::Protobuf
        );
        assert_eq!(Media::for_errors("text/plain"), Media::Json);
        assert_eq!(Media::for_errors(""), Media::Json);
    }
}
