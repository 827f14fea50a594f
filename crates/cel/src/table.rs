//! Every function: name, signatures, cost, what runs. How signatures are written is
//! said in `decls`.

use crate::decls::{Cost, Run};
use crate::value::Value;
use crate::{builtin as b, convert as c, kube as k, lists as l, ops, strings as s};

const ONE: Cost = Cost::Fixed(1);
/// An authorization check is dear: an expression may have two.
const CHECK: Cost = Cost::Fixed(350_000);

macro_rules! order {
    ($($accepted:pat_param)|+) => {
        |a, _| match a {
            [x, y] => Ok(Value::Bool(matches!(ops::compare(x, y)?, Some($($accepted)|+)))),
            _ => Err(crate::EvalError::no_such_overload()),
        }
    };
}

macro_rules! arithmetic {
    ($function:path) => {
        |a, _| match a {
            [x, y] => $function(x, y),
            _ => Err(crate::EvalError::no_such_overload()),
        }
    };
}

use std::cmp::Ordering::{Equal, Greater, Less};

const COMPARED: &str = "($,$):bool (int,uint):bool (int,double):bool (uint,int):bool (uint,double):bool \
                        (double,int):bool (double,uint):bool";
const OF_MOMENT: &str = "time.():int time.(string):int";
const OF_BOTH: &str = "time.():int time.(string):int dur.():int";

#[rustfmt::skip]
pub(crate) const TABLE: &[(&str, &str, Cost, Run)] = &[
    // Operators.
    ("_&&_", "(bool,bool):bool", Cost::Free, |_, _| Err(crate::EvalError::no_such_overload())),
    ("_||_", "(bool,bool):bool", Cost::Free, |_, _| Err(crate::EvalError::no_such_overload())),
    ("_?_:_", "(bool,A,A):A", Cost::Free, |_, _| Err(crate::EvalError::no_such_overload())),
    ("_[_]", "(list(A),int):A (map(A,B),A):B (opt(list(A)),int):opt(A) (opt(map(A,B)),A):opt(B)", ONE, |_, _| Err(crate::EvalError::no_such_overload())),
    ("_[?_]", "(list(A),int):opt(A) (opt(list(A)),int):opt(A) (map(A,B),A):opt(B) (opt(map(A,B)),A):opt(B)", ONE, |_, _| Err(crate::EvalError::no_such_overload())),
    ("!_", "(bool):bool", ONE, |a, _| match a {
        [Value::Bool(x)] => Ok(Value::Bool(!x)),
        _ => Err(crate::EvalError::no_such_overload()),
    }),
    ("-_", "(int):int (double):double", ONE, |a, _| match a {
        [x] => ops::negate(x),
        _ => Err(crate::EvalError::no_such_overload()),
    }),
    ("@not_strictly_false", "(bool):bool", ONE, b::not_strictly_false),
    ("_==_", "(A,A):bool", Cost::Equal, |a, m| match a {
        [x, y] => Ok(Value::Bool(ops::equal(x, y, m)?)),
        _ => Err(crate::EvalError::no_such_overload()),
    }),
    ("_!=_", "(A,A):bool", Cost::Equal, |a, m| match a {
        [x, y] => Ok(Value::Bool(!ops::equal(x, y, m)?)),
        _ => Err(crate::EvalError::no_such_overload()),
    }),
    ("_<_", COMPARED, Cost::Order, order!(Less)),
    ("_<=_", COMPARED, Cost::Order, order!(Less | Equal)),
    ("_>_", COMPARED, Cost::Order, order!(Greater)),
    ("_>=_", COMPARED, Cost::Order, order!(Greater | Equal)),
    ("_+_", "(int,int):int (uint,uint):uint (double,double):double (string,string):string (bytes,bytes):bytes \
             (list(A),list(A)):list(A) (dur,dur):dur (time,dur):time (dur,time):time", Cost::Add, |a, m| match a {
        [x, y] => ops::add(x, y, m),
        _ => Err(crate::EvalError::no_such_overload()),
    }),
    ("_-_", "(int,int):int (uint,uint):uint (double,double):double (dur,dur):dur (time,dur):time (time,time):dur", ONE, arithmetic!(ops::subtract)),
    ("_*_", "(int,int):int (uint,uint):uint (double,double):double", ONE, arithmetic!(ops::multiply)),
    ("_/_", "(int,int):int (uint,uint):uint (double,double):double", ONE, arithmetic!(ops::divide)),
    ("_%_", "(int,int):int (uint,uint):uint", ONE, arithmetic!(ops::modulo)),
    ("@in", "(A,list(A)):bool (A,map(A,B)):bool", Cost::In, |a, m| match a {
        [x, y] => Ok(Value::Bool(ops::contained(x, y, m)?)),
        _ => Err(crate::EvalError::no_such_overload()),
    }),
    // Conversions.
    ("bool", "(bool):bool (string):bool", ONE, c::bool),
    ("int", "(int):int (uint):int (double):int (string):int (time):int (dur):int", ONE, c::int),
    ("uint", "(uint):uint (int):uint (double):uint (string):uint", ONE, c::uint),
    ("double", "(double):double (int):double (uint):double (string):double", ONE, c::double),
    ("string", "(string):string (bool):string (int):string (uint):string (double):string (bytes):string (dur):string (time):string (ip):string (cidr):string", Cost::ToString, c::string),
    ("bytes", "(bytes):bytes (string):bytes", Cost::ToBytes, c::bytes),
    ("duration", "(dur):dur (string):dur (int):dur", ONE, c::duration),
    ("timestamp", "(time):time (string):time (int):time", ONE, c::timestamp),
    ("dyn", "(A):dyn", ONE, c::dynamic),
    ("type", "(A):type", ONE, c::type_of),
    ("size", "(string):int (bytes):int (list(A)):int (map(A,B)):int string.():int bytes.():int list(A).():int map(A,B).():int", ONE, c::size),
    // Moments.
    ("getFullYear", OF_MOMENT, ONE, |a, _| b::moment(a, |c| c.year)),
    ("getMonth", OF_MOMENT, ONE, |a, _| b::moment(a, |c| c.month - 1)),
    ("getDate", OF_MOMENT, ONE, |a, _| b::moment(a, |c| c.day)),
    ("getDayOfMonth", OF_MOMENT, ONE, |a, _| b::moment(a, |c| c.day - 1)),
    ("getDayOfWeek", OF_MOMENT, ONE, |a, _| b::moment(a, |c| c.weekday)),
    ("getDayOfYear", OF_MOMENT, ONE, |a, _| b::moment(a, |c| c.year_day)),
    ("getHours", OF_BOTH, ONE, |a, _| b::clock(a, 3600, |c| c.hour)),
    ("getMinutes", OF_BOTH, ONE, |a, _| b::clock(a, 60, |c| c.minute)),
    ("getSeconds", OF_BOTH, ONE, |a, _| b::clock(a, 1, |c| c.second)),
    ("getMilliseconds", OF_BOTH, ONE, b::milliseconds),
    // Strings.
    ("contains", "string.(string):bool", Cost::Contains, s::contains),
    ("startsWith", "string.(string):bool", Cost::Affix, s::starts_with),
    ("endsWith", "string.(string):bool", Cost::Affix, s::ends_with),
    ("matches", "string.(string):bool (string,string):bool", Cost::Regex, s::matches),
    ("find", "string.(string):string", Cost::Regex, s::find),
    ("findAll", "string.(string):list(string) string.(string,int):list(string)", Cost::Regex, s::find_all),
    ("charAt", "string.(int):string", ONE, s::char_at),
    ("lowerAscii", "string.():string", Cost::Traverse(1), s::lower_ascii),
    ("upperAscii", "string.():string", Cost::Traverse(1), s::upper_ascii),
    ("trim", "string.():string", Cost::Traverse(1), s::trim),
    ("substring", "string.(int):string string.(int,int):string", Cost::Traverse(1), s::substring),
    ("replace", "string.(string,string):string string.(string,string,int):string", Cost::Traverse(2), s::replace),
    ("split", "string.(string):list(string) string.(string,int):list(string)", Cost::Traverse(2), s::split),
    ("join", "list(string).():string list(string).(string):string", Cost::Join, s::join),
    ("format", "string.(list(dyn)):string", Cost::Format, crate::format::format),
    ("strings.quote", "(string):string", Cost::Traverse(1), s::quote),
    // Lists.
    ("isSorted", "list($).():bool", Cost::Scan, l::is_sorted),
    ("sum", "list(#).():#", Cost::Scan, l::sum),
    ("min", "list($).():$", Cost::Scan, l::min),
    ("max", "list($).():$", Cost::Scan, l::max),
    ("indexOf", "list(A).(A):int string.(string):int string.(string,int):int", Cost::Scan, l::index_of),
    ("lastIndexOf", "list(A).(A):int string.(string):int string.(string,int):int", Cost::Scan, l::last_index_of),
    ("includes", "dyn.(dyn):bool", Cost::Scan, l::includes),
    ("slice", "list(A).(int,int):list(A)", Cost::Output, l::slice),
    ("flatten", "list(list(A)).():list(A) list(dyn).(int):list(dyn)", Cost::Flatten, l::flatten),
    ("lists.range", "(int):list(int)", Cost::Output, l::range),
    ("reverse", "list(A).():list(A)", Cost::Output, l::reverse),
    ("distinct", "list(A).():list(A)", Cost::Compare, l::distinct),
    ("sort", "list($).():list($)", Cost::Compare, l::sort),
    ("@sortByAssociatedKeys", "list(A).(list($)):list(A)", Cost::SortBy, l::sort_by_keys),
    ("first", "list(A).():opt(A)", ONE, l::first),
    ("last", "list(A).():opt(A)", ONE, l::last),
    ("cel.@mapInsert", "(map(A,B),map(A,B)):map(A,B) (map(A,B),A,B):map(A,B)", Cost::Free, |_, _| Err(crate::EvalError::no_such_overload())),
    ("sets.contains", "(list(A),list(A)):bool", Cost::Sets(1), l::sets_contains),
    ("sets.equivalent", "(list(A),list(A)):bool", Cost::Sets(2), l::sets_equivalent),
    ("sets.intersects", "(list(A),list(A)):bool", Cost::Sets(1), l::sets_intersects),
    // Optionals.
    ("optional.of", "(A):opt(A)", ONE, b::optional_of),
    ("optional.ofNonZeroValue", "(A):opt(A)", ONE, b::optional_of_non_zero),
    ("optional.none", "():opt(A)", ONE, b::optional_none),
    ("optional.unwrap", "(list(opt(A))):list(A)", ONE, b::unwrap),
    ("unwrapOpt", "list(opt(A)).():list(A)", ONE, b::unwrap),
    ("hasValue", "opt(A).():bool", ONE, b::has_value),
    ("value", "opt(A).():A", ONE, b::value),
    ("or", "opt(A).(opt(A)):opt(A)", Cost::Free, |_, _| Err(crate::EvalError::no_such_overload())),
    ("orValue", "opt(A).(A):A", Cost::Free, |_, _| Err(crate::EvalError::no_such_overload())),
    // Quantities and versions.
    ("quantity", "(string):quantity", Cost::Traverse(1), k::quantity),
    ("isQuantity", "(string):bool", Cost::Traverse(1), k::is_quantity),
    ("sign", "quantity.():int", ONE, k::sign),
    ("isInteger", "quantity.():bool", ONE, k::is_integer),
    ("asInteger", "quantity.():int", ONE, k::as_integer),
    ("asApproximateFloat", "quantity.():double", ONE, k::as_float),
    ("add", "quantity.(quantity):quantity quantity.(int):quantity", ONE, k::add),
    ("sub", "quantity.(quantity):quantity quantity.(int):quantity", ONE, k::sub),
    ("isGreaterThan", "quantity.(quantity):bool semver.(semver):bool", ONE, k::is_greater),
    ("isLessThan", "quantity.(quantity):bool semver.(semver):bool", ONE, k::is_less),
    ("compareTo", "quantity.(quantity):int semver.(semver):int", ONE, k::compare_to),
    ("semver", "(string):semver (string,bool):semver", Cost::Traverse(1), k::semver),
    ("isSemver", "(string):bool (string,bool):bool", Cost::Traverse(1), k::is_semver),
    ("major", "semver.():int", ONE, |a, _| k::version_part(a, |v| v.major)),
    ("minor", "semver.():int", ONE, |a, _| k::version_part(a, |v| v.minor)),
    ("patch", "semver.():int", ONE, |a, _| k::version_part(a, |v| v.patch)),
    // Addresses and networks.
    ("ip", "(string):ip cidr.():ip", Cost::Ip, k::ip),
    ("isIP", "(string):bool", Cost::Traverse(1), k::is_ip),
    ("ip.isCanonical", "(string):bool", Cost::Traverse(2), k::is_canonical),
    ("family", "ip.():int", ONE, k::family),
    ("isUnspecified", "ip.():bool", ONE, k::is_unspecified),
    ("isLoopback", "ip.():bool", ONE, k::is_loopback),
    ("isLinkLocalMulticast", "ip.():bool", ONE, k::is_link_local_multicast),
    ("isLinkLocalUnicast", "ip.():bool", ONE, k::is_link_local_unicast),
    ("isGlobalUnicast", "ip.():bool", ONE, k::is_global_unicast),
    ("cidr", "(string):cidr", Cost::Traverse(1), k::cidr),
    ("isCIDR", "(string):bool", Cost::Traverse(1), k::is_cidr),
    ("containsIP", "cidr.(string):bool cidr.(ip):bool", Cost::ContainsIp, k::contains_ip),
    ("containsCIDR", "cidr.(string):bool cidr.(cidr):bool", Cost::ContainsCidr, k::contains_cidr),
    ("prefixLength", "cidr.():int", ONE, k::prefix_length),
    ("masked", "cidr.():cidr", ONE, k::masked),
    // URLs.
    ("url", "(string):url", Cost::Traverse(1), k::url),
    ("isURL", "(string):bool", ONE, k::is_url),
    ("getScheme", "url.():string", ONE, |a, _| k::url_part(a, |u| u.scheme.clone())),
    ("getHost", "url.():string", ONE, |a, _| k::url_part(a, |u| u.host.clone())),
    ("getHostname", "url.():string", ONE, |a, _| k::url_part(a, |u| u.hostname().to_owned())),
    ("getPort", "url.():string", ONE, |a, _| k::url_part(a, |u| u.port().to_owned())),
    ("getEscapedPath", "url.():string", ONE, |a, _| k::url_part(a, |u| u.escaped_path())),
    ("getQuery", "url.():map(string,list(string))", ONE, k::url_query),
    // Named formats.
    ("format.named", "(string):opt(format)", ONE, k::format_named),
    ("format.dns1123Label", "():format", ONE, |_, _| k::format_at(0)),
    ("format.dns1123Subdomain", "():format", ONE, |_, _| k::format_at(1)),
    ("format.dns1035Label", "():format", ONE, |_, _| k::format_at(2)),
    ("format.qualifiedName", "():format", ONE, |_, _| k::format_at(3)),
    ("format.dns1123LabelPrefix", "():format", ONE, |_, _| k::format_at(4)),
    ("format.dns1123SubdomainPrefix", "():format", ONE, |_, _| k::format_at(5)),
    ("format.dns1035LabelPrefix", "():format", ONE, |_, _| k::format_at(6)),
    ("format.labelValue", "():format", ONE, |_, _| k::format_at(7)),
    ("format.uri", "():format", ONE, |_, _| k::format_at(8)),
    ("format.uuid", "():format", ONE, |_, _| k::format_at(9)),
    ("format.byte", "():format", ONE, |_, _| k::format_at(10)),
    ("format.date", "():format", ONE, |_, _| k::format_at(11)),
    ("format.datetime", "():format", ONE, |_, _| k::format_at(12)),
    ("validate", "format.(string):opt(list(string))", Cost::Validate, k::validate),
    ("jsonpatch.escapeKey", "(string):string", Cost::Traverse(1), k::escape_key),
    // The authorizer.
    ("path", "authorizer.(string):path", ONE, b::path),
    ("group", "authorizer.(string):group", ONE, b::group),
    ("serviceAccount", "authorizer.(string,string):authorizer", ONE, b::service_account),
    ("resource", "group.(string):resource", ONE, b::resource),
    ("subresource", "resource.(string):resource", ONE, |a, _| b::narrow(a, |c| &mut c.subresource)),
    ("namespace", "resource.(string):resource", ONE, |a, _| b::narrow(a, |c| &mut c.namespace)),
    ("name", "resource.(string):resource", ONE, |a, _| b::narrow(a, |c| &mut c.name)),
    ("fieldSelector", "resource.(string):resource", Cost::Selector, |a, _| b::narrow(a, |c| &mut c.field_selector)),
    ("labelSelector", "resource.(string):resource", Cost::Selector, |a, _| b::narrow(a, |c| &mut c.label_selector)),
    ("check", "path.(string):decision resource.(string):decision", CHECK, b::check),
    ("allowed", "decision.():bool", ONE, |a, _| b::decision(a, |d| Value::Bool(d.allowed))),
    ("reason", "decision.():string", ONE, |a, _| b::decision(a, |d| Value::string(d.reason.as_str()))),
    ("errored", "decision.():bool", ONE, |a, _| b::decision(a, |d| Value::Bool(d.error.is_some()))),
    ("error", "decision.():string", ONE, |a, _| b::decision(a, |d| Value::string(d.error.as_deref().unwrap_or_default()))),
    // Where turned on.
    ("base64.encode", "(bytes):string", Cost::Traverse(1), b::base64_encode),
    ("base64.decode", "(string):bytes", Cost::Traverse(1), b::base64_decode),
    ("math.greatest", "(#):# (#,#):# (#,#,#):# (list(#)):#", Cost::Scan, b::greatest),
    ("math.least", "(#):# (#,#):# (#,#,#):# (list(#)):#", Cost::Scan, b::least),
    ("math.ceil", "(double):double", ONE, |a, _| b::rounded(a, f64::ceil)),
    ("math.floor", "(double):double", ONE, |a, _| b::rounded(a, f64::floor)),
    ("math.round", "(double):double", ONE, |a, _| b::rounded(a, f64::round)),
    ("math.trunc", "(double):double", ONE, |a, _| b::rounded(a, f64::trunc)),
    ("math.abs", "(int):int (uint):uint (double):double", ONE, b::abs),
];
