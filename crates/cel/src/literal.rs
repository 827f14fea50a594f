//! The values of string and bytes literals: quotes off, escapes resolved.

/// The characters of a string literal, or what is wrong with it.
pub(crate) fn string(text: &str) -> Result<String, &'static str> {
    let (body, raw) = unquoted(text);
    if raw {
        return Ok(body.replace("\r\n", "\n").replace('\r', "\n"));
    }
    let mut out = String::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let code = escape(&mut chars)?;
        out.push(char::from_u32(code).ok_or("invalid unicode code point")?);
    }
    Ok(out)
}

/// The octets of a bytes literal, or what is wrong with it.
pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    let (body, raw) = unquoted(text);
    if raw {
        return Ok(body.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(body.len());
    let mut buffer = [0; 4];
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        // \u and \U name code points, which a bytes literal has none of.
        if matches!(chars.clone().next(), Some('u' | 'U')) {
            return Err("unable to unescape string");
        }
        let code = escape(&mut chars)?;
        out.push(u8::try_from(code).map_err(|_| "unable to unescape string")?);
    }
    Ok(out)
}

fn escape(chars: &mut std::str::Chars<'_>) -> Result<u32, &'static str> {
    const BAD: &str = "unable to unescape string";
    let c = chars.next().ok_or(BAD)?;
    let digits = |chars: &mut std::str::Chars<'_>, count: usize, radix: u32, start: u32| {
        let mut code = start;
        for _ in 0..count {
            let digit = chars.next().and_then(|c| c.to_digit(radix)).ok_or(BAD)?;
            code = code.checked_mul(radix).and_then(|c| c.checked_add(digit)).ok_or(BAD)?;
        }
        Ok::<u32, &'static str>(code)
    };
    let code = match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => 10,
        'r' => 13,
        't' => 9,
        'v' => 11,
        '\\' | '\'' | '"' | '`' | '?' => c as u32,
        'x' | 'X' => digits(chars, 2, 16, 0)?,
        'u' => digits(chars, 4, 16, 0)?,
        'U' => digits(chars, 8, 16, 0)?,
        '0'..='3' => digits(chars, 2, 8, c.to_digit(8).unwrap_or(0))?,
        _ => return Err(BAD),
    };
    Ok(code)
}

/// The text between the quotes, and whether escapes mean nothing in it.
fn unquoted(text: &str) -> (&str, bool) {
    let start = text.find(['"', '\'']).unwrap_or(0);
    let raw = text[..start].contains(['r', 'R']);
    let body = &text[start..];
    let quotes = if body.len() >= 6 && (body.starts_with("'''") || body.starts_with("\"\"\"")) {
        3
    } else {
        1
    };
    (
        body.get(quotes..body.len().saturating_sub(quotes)).unwrap_or_default(),
        raw,
    )
}
