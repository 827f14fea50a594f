//! Kubernetes' named formats, and base64.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::time::Timestamp;

/// A named format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// The name it is found by.
    pub(crate) name: &'static str,
    /// What validating costs, as the length of a regular expression.
    pub(crate) regex_size: u64,
    validate: fn(&str) -> Vec<String>,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// All of them.
pub(crate) const FORMATS: [Format; 13] = [
    format("dns1123Label", 30, meta::names::dns1123_label),
    format("dns1123Subdomain", 60, meta::names::dns1123_subdomain),
    format("dns1035Label", 30, meta::names::dns1035_label),
    format("qualifiedName", 60, meta::names::qualified_name),
    format("dns1123LabelPrefix", 30, |s| meta::names::dns1123_label(&prefix(s))),
    format("dns1123SubdomainPrefix", 60, |s| {
        meta::names::dns1123_subdomain(&prefix(s))
    }),
    format("dns1035LabelPrefix", 30, |s| meta::names::dns1035_label(&prefix(s))),
    format("labelValue", 40, meta::names::label_value),
    format("uri", 1000, |s| crate::url::Url::parse(s).err().into_iter().collect()),
    format("uuid", 86, |s| unless(is_uuid(s), "does not match the UUID format")),
    format("byte", 100, |s| unless(base64(s).is_some(), "invalid base64")),
    format("date", 90, |s| {
        unless(Timestamp::parse_date(s).is_some(), "invalid date")
    }),
    format("datetime", 90, |s| {
        unless(Timestamp::parse(s).is_some(), "invalid datetime")
    }),
];

const fn format(name: &'static str, regex_size: u64, validate: fn(&str) -> Vec<String>) -> Format {
    Format {
        name,
        regex_size,
        validate,
    }
}

impl Format {
    /// The format of a name.
    pub fn named(name: &str) -> Option<Self> {
        FORMATS.iter().copied().find(|f| f.name == name)
    }

    /// What is wrong with a text.
    pub fn validate(&self, text: &str) -> Vec<String> {
        (self.validate)(text)
    }
}

/// A trailing dash of a prefix stands for whatever is appended.
fn prefix(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(before) => format!("{before}a"),
        None => text.to_owned(),
    }
}

fn unless(valid: bool, message: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![message.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    let dashes = [8, 13, 18, 23];
    let placed = text.char_indices().all(|(i, c)| c != '-' || dashes.contains(&i));
    plain.len() == 32 && plain.bytes().all(|b| b.is_ascii_hexdigit()) && placed
}

/// Decodes base64, padded or not.
pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&STANDARD, config).decode(text).ok()
}

/// Encodes base64.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
