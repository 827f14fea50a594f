//! URLs as a request line may name them: absolute, or a path. Close to Go's
//! `net/url`, which upstream uses; it resolves nothing.

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub(crate) source: String,
    pub(crate) scheme: String,
    pub(crate) host: String,
    path: String,
    query: String,
}

impl Url {
    /// Reads an absolute URI or an absolute path.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fail = |what: &str| format!("parse {text:?}: {what}");
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err(fail("net/url: invalid control character in URL"));
        }
        if text.is_empty() {
            return Err(fail("empty url"));
        }
        let (scheme, rest) = split_scheme(text).map_err(fail)?;
        let without_fragment = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (place, query) = without_fragment.split_once('?').unwrap_or((without_fragment, ""));
        if !place.starts_with('/') {
            if scheme.is_empty() {
                return Err(fail("invalid URI for request"));
            }
            // Opaque, as mailto:a is.
            return Ok(Url {
                source: text.to_owned(),
                scheme: scheme.to_ascii_lowercase(),
                host: String::new(),
                path: String::new(),
                query: query.to_owned(),
            });
        }
        let authority = place
            .strip_prefix("//")
            .filter(|_| !scheme.is_empty() || !place.starts_with("///"));
        let (host, path) = match authority {
            Some(rest) => {
                let end = rest.find('/').unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                (host(authority).map_err(|e| fail(&e))?, path)
            }
            None => (String::new(), place),
        };
        check_escapes(path).map_err(|e| fail(&e))?;
        Ok(Url {
            source: text.to_owned(),
            scheme: scheme.to_ascii_lowercase(),
            host,
            path: path.to_owned(),
            query: query.to_owned(),
        })
    }

    /// The host without port and brackets.
    pub fn hostname(&self) -> &str {
        let host = self.without_port();
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
    }

    /// The port, or nothing.
    pub fn port(&self) -> &str {
        self.host.get(self.without_port().len() + 1..).unwrap_or_default()
    }

    fn without_port(&self) -> &str {
        let from = self.host.rfind(']').unwrap_or(0);
        match self.host[from..].rfind(':') {
            Some(colon) => &self.host[..from + colon],
            None => &self.host,
        }
    }

    /// The path, with what needs escaping escaped.
    pub fn escaped_path(&self) -> String {
        let mut out = String::with_capacity(self.path.len());
        for byte in self.path.bytes() {
            let plain = byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&byte);
            if plain {
                out.push(byte as char);
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    }

    /// Names and values of the query; malformed pairs are left out.
    pub fn query(&self) -> Vec<(String, Vec<String>)> {
        let mut out: Vec<(String, Vec<String>)> = Vec::new();
        for pair in self.query.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (unescape(name), unescape(value)) else {
                continue;
            };
            match out.iter_mut().find(|(n, _)| *n == name) {
                Some((_, values)) => values.push(value),
                None => out.push((name, vec![value])),
            }
        }
        out
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), &'static str> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((&text[..i], &text[i + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn host(authority: &str) -> Result<String, String> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = if host.starts_with('[') {
        let end = host.find(']').ok_or("missing ']' in host")?;
        &host[end + 1..]
    } else {
        &host[host.rfind(':').unwrap_or(host.len())..]
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if (!port.is_empty() && !port.starts_with(':')) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("invalid port {port:?} after host"));
    }
    if let Some(bad) = host
        .chars()
        .find(|c| matches!(c, ' ' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '}' | '|'))
    {
        return Err(format!("invalid character {:?} in host name", bad.to_string()));
    }
    check_escapes(host)?;
    Ok(host.to_owned())
}

fn check_escapes(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b'%') {
        let digits = bytes.get(at + 1..at + 3).unwrap_or_default();
        if digits.len() < 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            let shown = String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]);
            return Err(format!("invalid URL escape {shown:?}"));
        }
    }
    Ok(())
}

fn unescape(text: &str) -> Option<String> {
    check_escapes(text).ok()?;
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let high = (bytes.next()? as char).to_digit(16)?;
                let low = (bytes.next()? as char).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            _ => out.push(byte),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}
