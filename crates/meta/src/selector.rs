//! Label and field selectors: parsing of the query-string form, the object
//! form (`metav1.LabelSelector`), and matching.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::names;

/// Why a selector could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

/// A conjunction of requirements on labels. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    op: Op,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches nothing.
    pub fn nothing() -> Self {
        LabelSelector {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// `a=b,c in (d,e),!f,g` and so on.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { rest: text.trim() };
        let mut requirements = Vec::new();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement()?);
            parser.space();
            if parser.rest.is_empty() {
                break;
            }
            if !parser.eat(",") {
                return Err(SelectorError(format!(
                    "found '{}', expected: ',' or 'end of string'",
                    parser.rest
                )));
            }
            parser.space();
        }
        Ok(LabelSelector {
            requirements,
            nothing: false,
        })
    }

    /// All of the given labels.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let requirements = labels
            .iter()
            .map(|(k, v)| Requirement {
                key: k.clone(),
                op: Op::In,
                values: vec![v.clone()],
            })
            .collect();
        LabelSelector {
            requirements,
            nothing: false,
        }
    }

    /// The object form with `matchLabels` and `matchExpressions`. Null matches nothing,
    /// `{}` matches everything.
    pub fn from_object(value: &Value) -> Result<Self, SelectorError> {
        if value.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        let labels = value.get("matchLabels").and_then(Value::as_object);
        for (k, v) in labels.into_iter().flatten() {
            let v = v
                .as_str()
                .ok_or_else(|| SelectorError(format!("matchLabels[{k}] must be a string")))?;
            requirements.push(Requirement {
                key: k.clone(),
                op: Op::In,
                values: vec![v.to_owned()],
            });
        }
        let expressions = value.get("matchExpressions").and_then(Value::as_array);
        for e in expressions.into_iter().flatten() {
            requirements.push(expression(e)?);
        }
        Ok(LabelSelector {
            requirements,
            nothing: false,
        })
    }

    /// Whether the labels satisfy every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// `key -> value` pairs that any match must have; an index can use one of them.
    pub fn exact(&self) -> impl Iterator<Item = (&str, &str)> {
        self.requirements
            .iter()
            .filter_map(|r| match (r.op, r.values.as_slice()) {
                (Op::In, [one]) => Some((r.key.as_str(), one.as_str())),
                _ => None,
            })
    }
}

fn expression(e: &Value) -> Result<Requirement, SelectorError> {
    let text = |f: &str| e.get(f).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (key, operator) = (text("key"), text("operator"));
    let values: Vec<String> = e
        .get("values")
        .and_then(Value::as_array)
        .map(|v| v.iter().filter_map(|x| x.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    let op = match operator.as_str() {
        "In" => Op::In,
        "NotIn" => Op::NotIn,
        "Exists" => Op::Exists,
        "DoesNotExist" => Op::DoesNotExist,
        "Gt" => Op::Gt,
        "Lt" => Op::Lt,
        other => {
            return Err(SelectorError(format!(
                "\"{other}\" is not a valid label selector operator"
            )));
        }
    };
    if matches!(op, Op::In | Op::NotIn) && values.is_empty() {
        return Err(SelectorError(
            "for 'in', 'notin' operators, values set can't be empty".into(),
        ));
    }
    Ok(Requirement { key, op, values })
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.op {
            Op::In => value.is_some_and(|v| self.values.contains(v)),
            Op::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            Op::Exists => value.is_some(),
            Op::DoesNotExist => value.is_none(),
            Op::Gt => self.compare(value).is_some_and(|(a, b)| a > b),
            Op::Lt => self.compare(value).is_some_and(|(a, b)| a < b),
        }
    }

    fn compare(&self, value: Option<&String>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.values.first()?.parse().ok()?))
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> String {
        self.space();
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '!' | '(' | ')' | '<' | '>'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        self.space();
        let negated = self.eat("!");
        let key = self.word();
        if let Some(problem) = names::qualified_name(&key).first() {
            return Err(SelectorError(format!("key: Invalid value: \"{key}\": {problem}")));
        }
        self.space();
        if negated || self.rest.is_empty() || self.rest.starts_with(',') {
            let op = if negated { Op::DoesNotExist } else { Op::Exists };
            return Ok(Requirement {
                key,
                op,
                values: Vec::new(),
            });
        }
        let (op, values) = self.operator()?;
        for v in &values {
            if let Some(problem) = names::label_value(v).first() {
                return Err(SelectorError(format!(
                    "values[0][{key}]: Invalid value: \"{v}\": {problem}"
                )));
            }
            if matches!(op, Op::Gt | Op::Lt) && v.parse::<i64>().is_err() {
                return Err(SelectorError(format!(
                    "for 'Gt', 'Lt' operators, the value must be an integer, not \"{v}\""
                )));
            }
        }
        Ok(Requirement { key, op, values })
    }

    fn operator(&mut self) -> Result<(Op, Vec<String>), SelectorError> {
        for (token, op) in [
            ("==", Op::In),
            ("=", Op::In),
            ("!=", Op::NotIn),
            (">", Op::Gt),
            ("<", Op::Lt),
        ] {
            if self.eat(token) {
                return Ok((op, vec![self.word()]));
            }
        }
        let op = match self.word().as_str() {
            "in" => Op::In,
            "notin" => Op::NotIn,
            other => {
                return Err(SelectorError(format!(
                    "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
                )));
            }
        };
        self.space();
        if !self.eat("(") {
            return Err(SelectorError(format!("found '{}', expected: '('", self.rest)));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.word());
            self.space();
            if self.eat(")") {
                return Ok((op, values));
            }
            if !self.eat(",") {
                return Err(SelectorError(format!("found '{}', expected: ',' or ')'", self.rest)));
            }
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let (key, values) = (&r.key, r.values.join(","));
            match (r.op, r.values.len()) {
                (Op::In, 1) => write!(f, "{key}={values}")?,
                (Op::In, _) => write!(f, "{key} in ({values})")?,
                (Op::NotIn, 1) => write!(f, "{key}!={values}")?,
                (Op::NotIn, _) => write!(f, "{key} notin ({values})")?,
                (Op::Exists, _) => write!(f, "{key}")?,
                (Op::DoesNotExist, _) => write!(f, "!{key}")?,
                (Op::Gt, _) => write!(f, "{key}>{values}")?,
                (Op::Lt, _) => write!(f, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

/// A conjunction of `field=value` and `field!=value` terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Field path, whether equality is wanted, value.
    pub terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// `metadata.name=x,status.phase!=Running`; `\,`, `\=` and `\\` are escapes.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for term in split_terms(text).into_iter().filter(|t| !t.is_empty()) {
            let found = ["!=", "==", "="].iter().find_map(|op| {
                let at = term.find(op)?;
                Some((at, *op))
            });
            let Some((at, op)) = found else {
                return Err(SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            let value = unescape(&term[at + op.len()..])?;
            terms.push((term[..at].to_owned(), op != "!=", value));
        }
        Ok(FieldSelector { terms })
    }

    /// Whether there is no term.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `field` must equal, if a term says so.
    pub fn requires(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|(f, equal, _)| f == field && *equal)?;
        Some(&term.2)
    }

    /// Whether every term holds; `get` gives a field's value, empty when unset.
    pub fn matches(&self, mut get: impl FnMut(&str) -> String) -> bool {
        self.terms
            .iter()
            .all(|(field, equal, value)| (get(field) == *value) == *equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (field, equal, value)) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let op = if *equal { "=" } else { "!=" };
            let value = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{field}{op}{value}")?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn unescape(s: &str) -> Result<String, SelectorError> {
    let mut out = String::new();
    let mut chars = s.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                _ => {
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence in '{s}'"
                    )));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in '{s}'"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn label_selectors_match() {
        let l = labels(&[("app", "web"), ("tier", "front"), ("n", "5")]);
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (web, api), tier notin (back)", true),
            ("app", true),
            ("!app", false),
            ("missing!=x", true),
            ("missing=x", false),
            ("n>4,n<6", true),
            ("n>5", false),
            ("app in ()", false),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&l), want, "{text}");
        }
    }

    #[test]
    fn bad_label_selectors_are_refused() {
        for text in ["a=b c", "a in b", "=x", "a in (b", "a=b,,c", "n>x", "a/b/c=1", "a=-"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn object_form() {
        let s = LabelSelector::from_object(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["front", "mid"]}],
        }))
        .unwrap();
        assert!(s.matches(&labels(&[("app", "web"), ("tier", "mid")])));
        assert!(!s.matches(&labels(&[("app", "web")])));
        assert_eq!(s.to_string(), "app=web,tier in (front,mid)");
        assert!(!LabelSelector::from_object(&Value::Null).unwrap().matches(&labels(&[])));
        assert!(LabelSelector::from_object(&json!({})).unwrap().matches(&labels(&[])));
    }

    #[test]
    fn field_selectors() {
        let s = FieldSelector::parse(r"metadata.name=a\,b,status.phase!=Running").unwrap();
        assert_eq!(s.requires("metadata.name"), Some("a,b"));
        let get = |f: &str| {
            if f == "metadata.name" {
                "a,b".to_owned()
            } else {
                "Pending".to_owned()
            }
        };
        assert!(s.matches(get));
        assert_eq!(FieldSelector::parse(&s.to_string()).unwrap(), s);
        assert!(FieldSelector::parse("nonsense").is_err());
    }
}
