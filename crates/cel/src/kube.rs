//! Functions of Kubernetes' own types: quantities, addresses, networks, URLs, versions and
//! named formats.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use meta::quantity::Quantity;

use crate::error::EvalError;
use crate::formats::Format;
use crate::meter::Meter;
use crate::semver::Version;
use crate::url::Url;
use crate::value::{Map, Opaque, OwnedMap, Value};

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

macro_rules! no {
    () => {
        Err(EvalError::no_such_overload())
    };
}

fn text<'v>(args: &'v [Value<'_>]) -> std::result::Result<&'v str, EvalError> {
    args.first()
        .and_then(Value::as_str)
        .ok_or_else(EvalError::no_such_overload)
}

fn opaque<'v, 'a>(args: &'v [Value<'a>], index: usize) -> std::result::Result<&'v Opaque<'a>, EvalError> {
    match args.get(index) {
        Some(Value::Opaque(opaque)) => Ok(opaque),
        _ => Err(EvalError::no_such_overload()),
    }
}

// Quantities and versions.

pub(crate) fn quantity<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let parsed: std::result::Result<Quantity, _> = text(args)?.parse();
    match parsed {
        Ok(quantity) => Ok(Value::opaque(Opaque::Quantity(quantity))),
        Err(e) => Err(EvalError::new(e.to_string())),
    }
}

pub(crate) fn is_quantity<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(text(args)?.parse::<Quantity>().is_ok()))
}

fn version(args: &[Value<'_>]) -> std::result::Result<std::result::Result<Version, String>, EvalError> {
    let tolerant = matches!(args.get(1), Some(Value::Bool(true)));
    let text = text(args)?;
    Ok(if tolerant {
        Version::parse_tolerant(text)
    } else {
        Version::parse(text)
    })
}

pub(crate) fn semver<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    version(args)?
        .map(|v| Value::opaque(Opaque::Semver(v)))
        .map_err(EvalError::new)
}

pub(crate) fn is_semver<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(version(args)?.is_ok()))
}

pub(crate) fn version_part<'a>(args: &[Value<'a>], part: fn(&Version) -> u64) -> Result<'a> {
    match opaque(args, 0)? {
        Opaque::Semver(v) => Ok(Value::Int(i64::try_from(part(v)).unwrap_or(i64::MAX))),
        _ => no!(),
    }
}

fn order(args: &[Value<'_>]) -> std::result::Result<Ordering, EvalError> {
    match (opaque(args, 0)?, opaque(args, 1)?) {
        (Opaque::Quantity(a), Opaque::Quantity(b)) => Ok(a.cmp(b)),
        (Opaque::Semver(a), Opaque::Semver(b)) => Ok(a.compare(b)),
        _ => no!(),
    }
}

pub(crate) fn is_greater<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(order(args)? == Ordering::Greater))
}

pub(crate) fn is_less<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(order(args)? == Ordering::Less))
}

pub(crate) fn compare_to<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Int(order(args)? as i64))
}

fn as_quantity(args: &[Value<'_>], index: usize) -> std::result::Result<Quantity, EvalError> {
    match args.get(index) {
        Some(Value::Int(n)) if index > 0 => Ok(Quantity::from_int(*n)),
        _ => match opaque(args, index)? {
            Opaque::Quantity(q) => Ok(*q),
            _ => no!(),
        },
    }
}

pub(crate) fn add<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::opaque(Opaque::Quantity(
        as_quantity(args, 0)? + as_quantity(args, 1)?,
    )))
}

pub(crate) fn sub<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::opaque(Opaque::Quantity(
        as_quantity(args, 0)? - as_quantity(args, 1)?,
    )))
}

pub(crate) fn sign<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let quantity = as_quantity(args, 0)?;
    Ok(Value::Int(quantity.cmp(&Quantity::default()) as i64))
}

/// The whole number a quantity is, if it is one that fits.
fn integer(quantity: Quantity) -> Option<i64> {
    let whole = quantity.value();
    (Quantity::from_int(whole).cmp(&quantity) == Ordering::Equal).then_some(whole)
}

pub(crate) fn is_integer<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(integer(as_quantity(args, 0)?).is_some()))
}

pub(crate) fn as_integer<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let whole = integer(as_quantity(args, 0)?);
    whole
        .map(Value::Int)
        .ok_or_else(|| EvalError::new("cannot convert value to integer"))
}

pub(crate) fn as_float<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let quantity = as_quantity(args, 0)?;
    let whole = quantity.value();
    let rest = quantity - Quantity::from_int(whole);
    // What is below a whole number is read off its canonical text: nano at worst.
    let nanos = rest.to_string();
    let digits: f64 = nanos.trim_end_matches(['n', 'u', 'm']).parse().unwrap_or(0.0);
    let unit = match nanos.chars().last() {
        Some('n') => 1e9,
        Some('u') => 1e6,
        Some('m') => 1e3,
        _ => 1.0,
    };
    Ok(Value::Double(whole as f64 + digits / unit))
}

// Addresses and networks.

fn parse_ip(text: &str) -> std::result::Result<IpAddr, EvalError> {
    if text.contains('%') && text.split('%').next().is_some_and(|a| a.parse::<IpAddr>().is_ok()) {
        return Err(EvalError::new(format!(
            "IP address {text:?} with zone value is not allowed"
        )));
    }
    let parsed: IpAddr = text.parse().map_err(|_| {
        let message = format!("IP Address {text:?} parse error during conversion from string: ");
        EvalError::new(message + &format!("ParseAddr({text:?}): unable to parse IP"))
    })?;
    if is_mapped(parsed) {
        return Err(EvalError::new(format!(
            "IPv4-mapped IPv6 address {text:?} is not allowed"
        )));
    }
    Ok(parsed)
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

fn parse_cidr(text: &str) -> std::result::Result<(IpAddr, u8), EvalError> {
    let fail = |what: &str| {
        let message = "network address parse error during conversion from string: netip.ParsePrefix";
        EvalError::new(format!("{message}({text:?}): {what}"))
    };
    let (ip, bits) = text.rsplit_once('/').ok_or_else(|| fail("no '/'"))?;
    let ip: IpAddr = ip.parse().map_err(|_| fail("unable to parse IP"))?;
    let plain = bits.bytes().all(|b| b.is_ascii_digit()) && !(bits.len() > 1 && bits.starts_with('0'));
    let bits: u8 = bits
        .parse()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| fail("bad bits after slash"))?;
    if bits > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(fail("prefix length out of range"));
    }
    if is_mapped(ip) {
        return Err(EvalError::new(format!(
            "IPv4-mapped IPv6 address {text:?} is not allowed"
        )));
    }
    Ok((ip, bits))
}

/// The first address of a network.
fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

/// `ip(string)`, and `ip()` of a network.
pub(crate) fn ip<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    if let Some(Value::Opaque(value)) = args.first() {
        return match &**value {
            Opaque::Cidr(ip, _) => Ok(Value::opaque(Opaque::Ip(*ip))),
            _ => no!(),
        };
    }
    Ok(Value::opaque(Opaque::Ip(parse_ip(text(args)?)?)))
}

pub(crate) fn is_ip<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(parse_ip(text(args)?).is_ok()))
}

pub(crate) fn is_canonical<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let text = text(args)?;
    Ok(Value::Bool(parse_ip(text)?.to_string() == text))
}

fn address(args: &[Value<'_>]) -> std::result::Result<IpAddr, EvalError> {
    match opaque(args, 0)? {
        Opaque::Ip(ip) => Ok(*ip),
        _ => no!(),
    }
}

pub(crate) fn family<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Int(if address(args)?.is_ipv4() { 4 } else { 6 }))
}

pub(crate) fn is_unspecified<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(address(args)?.is_unspecified()))
}

pub(crate) fn is_loopback<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(address(args)?.is_loopback()))
}

fn link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

pub(crate) fn is_link_local_unicast<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(link_local_unicast(address(args)?)))
}

pub(crate) fn is_link_local_multicast<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(match address(args)? {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }))
}

/// As Go has it: everything but what is meant for no one, this host, this link or many.
pub(crate) fn is_global_unicast<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let ip = address(args)?;
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast(ip);
    Ok(Value::Bool(!special && !broadcast))
}

pub(crate) fn cidr<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let (ip, bits) = parse_cidr(text(args)?)?;
    Ok(Value::opaque(Opaque::Cidr(ip, bits)))
}

pub(crate) fn is_cidr<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(parse_cidr(text(args)?).is_ok()))
}

fn network(args: &[Value<'_>]) -> std::result::Result<(IpAddr, u8), EvalError> {
    match opaque(args, 0)? {
        Opaque::Cidr(ip, bits) => Ok((*ip, *bits)),
        _ => no!(),
    }
}

pub(crate) fn prefix_length<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Int(network(args)?.1.into()))
}

pub(crate) fn masked<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let (ip, bits) = network(args)?;
    Ok(Value::opaque(Opaque::Cidr(mask(ip, bits), bits)))
}

fn holds((ip, bits): (IpAddr, u8), other: IpAddr) -> bool {
    ip.is_ipv4() == other.is_ipv4() && mask(ip, bits) == mask(other, bits)
}

pub(crate) fn contains_ip<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let ip = match args.get(1) {
        Some(Value::String(s)) => parse_ip(s.as_str())?,
        _ => match opaque(args, 1)? {
            Opaque::Ip(ip) => *ip,
            _ => return no!(),
        },
    };
    Ok(Value::Bool(holds(network(args)?, ip)))
}

pub(crate) fn contains_cidr<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let (ip, bits) = match args.get(1) {
        Some(Value::String(s)) => parse_cidr(s.as_str())?,
        _ => match opaque(args, 1)? {
            Opaque::Cidr(ip, bits) => (*ip, *bits),
            _ => return no!(),
        },
    };
    let outer = network(args)?;
    Ok(Value::Bool(outer.1 <= bits && holds(outer, ip)))
}

// URLs.

pub(crate) fn url<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match Url::parse(text(args)?) {
        Ok(url) => Ok(Value::opaque(Opaque::Url(url))),
        Err(e) => Err(EvalError::new(format!(
            "URL parse error during conversion from string: {e}"
        ))),
    }
}

pub(crate) fn is_url<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(Url::parse(text(args)?).is_ok()))
}

pub(crate) fn url_part<'a>(args: &[Value<'a>], part: fn(&Url) -> String) -> Result<'a> {
    match opaque(args, 0)? {
        Opaque::Url(url) => Ok(Value::string(part(url))),
        _ => no!(),
    }
}

pub(crate) fn url_query<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let Opaque::Url(url) = opaque(args, 0)? else {
        return no!();
    };
    let mut out = OwnedMap::default();
    for (name, values) in url.query() {
        out.insert(
            Value::string(name),
            Value::list(values.into_iter().map(Value::string).collect()),
        )?;
    }
    Ok(Value::Map(Map::Owned(Arc::new(out))))
}

// Named formats.

pub(crate) fn format_named<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let format = Format::named(text(args)?);
    Ok(Value::Optional(
        format.map(|f| Arc::new(Value::opaque(Opaque::Format(f)))),
    ))
}

/// `format.dns1123Label()` and its like: the format at a place in the table.
pub(crate) fn format_at<'a>(index: usize) -> Result<'a> {
    let format = crate::formats::FORMATS.get(index).copied();
    format
        .map(|f| Value::opaque(Opaque::Format(f)))
        .ok_or_else(EvalError::no_such_overload)
}

pub(crate) fn validate<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let (Opaque::Format(format), Some(text)) = (opaque(args, 0)?, args.get(1).and_then(Value::as_str)) else {
        return no!();
    };
    let findings = format.validate(text);
    if findings.is_empty() {
        return Ok(Value::Optional(None));
    }
    Ok(Value::some(Value::list(
        findings.into_iter().map(Value::string).collect(),
    )))
}

/// `jsonpatch.escapeKey(x)`
pub(crate) fn escape_key<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::string(text(args)?.replace('~', "~0").replace('/', "~1")))
}
