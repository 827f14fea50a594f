//! JSONPath as printer columns and kubectl use it. Must not evaluate anything but
//! paths: no ranges, no functions, no regular expressions.

use serde_json::Value;

/// How many values one path may select: wildcards and descents multiply.
const MAX_FOUND: usize = 10_000;

/// Why a path is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at {at} of JSONPath {text}")]
pub struct JsonPathError {
    /// What is wrong.
    pub problem: &'static str,
    /// Where, in bytes.
    pub at: usize,
    /// The path.
    pub text: String,
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// `.name`, `['name']`; several after a comma.
    Fields(Vec<String>),
    /// `[0]`, `[-1]`; several after a comma.
    Indexes(Vec<i64>),
    /// `[1:3]`, `[:-1]`, `[::2]`.
    Slice(Option<i64>, Option<i64>, usize),
    /// `[*]`, `.*`.
    All,
    /// `..`: the node and everything below it.
    Descend,
    /// `[?(@.a == "b")]`.
    Filter(Operand, Option<(Compare, Operand)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

impl JsonPath {
    /// Parses `.spec.x`, `{.spec.x}`, `$.spec.x`, `spec.x`, `[0]`, `[*]`, `['a.b']`, `.a\.b`, `[0:2]`,
    /// `..x`, `[?(@.type=="Ready")]`.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        let trimmed = text.trim();
        let inner = trimmed
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .unwrap_or(trimmed);
        let mut parser = Parser {
            text: inner,
            at: 0,
            depth: 0,
        };
        let path = parser.path(false).map_err(|problem| JsonPathError {
            problem,
            at: parser.at,
            text: text.to_owned(),
        })?;
        Ok(path)
    }

    /// All values that the path selects, in document order.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            let mut next = Vec::new();
            for v in found {
                step.select(v, &mut next);
                if next.len() >= MAX_FOUND {
                    break;
                }
            }
            next.truncate(MAX_FOUND);
            found = next;
        }
        found
    }

    /// The first value that the path selects.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.find(value).into_iter().next()
    }
}

impl Step {
    fn select<'v>(&self, value: &'v Value, out: &mut Vec<&'v Value>) {
        match (self, value) {
            (Step::Fields(names), Value::Object(map)) => out.extend(names.iter().filter_map(|n| map.get(n))),
            (Step::Indexes(at), Value::Array(list)) => {
                out.extend(at.iter().filter_map(|i| list.get(position(*i, list.len())?)));
            }
            (Step::Slice(from, to, step), Value::Array(list)) => {
                let bound = |i: i64| {
                    let n = i64::try_from(list.len()).unwrap_or(i64::MAX);
                    usize::try_from(if i < 0 { i.saturating_add(n) } else { i.min(n) }).unwrap_or(0)
                };
                let (from, to) = (from.map_or(0, bound), to.map_or(list.len(), bound));
                out.extend(list.iter().take(to).skip(from).step_by(*step));
            }
            (Step::All, Value::Array(list)) => out.extend(list),
            (Step::All, Value::Object(map)) => out.extend(map.values()),
            (Step::Descend, v) => descend(v, out),
            (Step::Filter(left, right), Value::Array(list)) => {
                out.extend(list.iter().filter(|v| passes(v, left, right.as_ref())));
            }
            _ => {}
        }
    }
}

fn position(i: i64, len: usize) -> Option<usize> {
    if i >= 0 {
        return usize::try_from(i).ok();
    }
    len.checked_sub(usize::try_from(i.unsigned_abs()).ok()?)
}

fn descend<'v>(value: &'v Value, out: &mut Vec<&'v Value>) {
    if out.len() >= MAX_FOUND {
        return;
    }
    out.push(value);
    match value {
        Value::Array(list) => list.iter().for_each(|v| descend(v, out)),
        Value::Object(map) => map.values().for_each(|v| descend(v, out)),
        _ => {}
    }
}

fn passes(item: &Value, left: &Operand, right: Option<&(Compare, Operand)>) -> bool {
    let left = left.value(item);
    let Some((compare, right)) = right else {
        return left.is_some();
    };
    let (Some(left), Some(right)) = (left, right.value(item)) else {
        return false;
    };
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match compare {
        Compare::Equal => order.map_or(left == right, |o| o.is_eq()),
        Compare::NotEqual => order.map_or(left != right, |o| o.is_ne()),
        Compare::Less => order.is_some_and(|o| o.is_lt()),
        Compare::LessEqual => order.is_some_and(|o| o.is_le()),
        Compare::Greater => order.is_some_and(|o| o.is_gt()),
        Compare::GreaterEqual => order.is_some_and(|o| o.is_ge()),
    }
}

impl Operand {
    fn value<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Operand::Literal(v) => Some(v),
            Operand::Path(path) => path.first(item),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    /// Filters within filters.
    depth: usize,
}

type Parsed<T> = Result<T, &'static str>;

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn expect(&mut self, token: &str, problem: &'static str) -> Parsed<()> {
        self.spaces();
        if self.take(token) { Ok(()) } else { Err(problem) }
    }

    /// Steps to the end of the text, or, inside a filter, to where a path cannot go on.
    fn path(&mut self, nested: bool) -> Parsed<JsonPath> {
        let mut steps = Vec::new();
        if !self.take("$") {
            self.take("@");
        }
        loop {
            let begun = !steps.is_empty();
            if self.rest().is_empty() {
                return Ok(JsonPath(steps));
            } else if self.take("..") {
                steps.push(Step::Descend);
                if !self.rest().starts_with('[') {
                    steps.push(self.name()?);
                }
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else if self.take(".") {
                // A dot alone is the whole.
                if !begun && (self.rest().is_empty() || self.rest().starts_with('[')) {
                    continue;
                }
                steps.push(self.name()?);
            } else if nested {
                return Ok(JsonPath(steps));
            } else if !begun {
                steps.push(self.name()?);
            } else {
                return Err("unexpected character");
            }
        }
    }

    /// A name up to the next step; a backslash takes the next character as it is.
    fn name(&mut self) -> Parsed<Step> {
        if self.take("*") {
            return Ok(Step::All);
        }
        let mut name = String::new();
        let mut chars = self.rest().char_indices();
        let mut end = self.rest().len();
        while let Some((i, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, c)) => name.push(c),
                    None => return Err("nothing follows the backslash"),
                },
                '.' | '[' | ']' | ')' | '(' | '=' | '!' | '<' | '>' | '{' | '}' | ' ' | '\t' | '\n' => {
                    end = i;
                    break;
                }
                c => name.push(c),
            }
        }
        self.at += end;
        if name.is_empty() {
            Err("a name is missing")
        } else {
            Ok(Step::Fields(vec![name]))
        }
    }

    fn bracket(&mut self) -> Parsed<Step> {
        self.spaces();
        let step = if self.take("*") {
            Step::All
        } else if self.take("?(") {
            self.filter()?
        } else if self.rest().starts_with(['\'', '"']) {
            let mut names = vec![self.quoted()?];
            while self.separator(",") {
                self.spaces();
                names.push(self.quoted()?);
            }
            Step::Fields(names)
        } else {
            self.numbers()?
        };
        self.expect("]", "a bracket is not closed")?;
        Ok(step)
    }

    fn separator(&mut self, token: &str) -> bool {
        self.spaces();
        self.take(token)
    }

    fn numbers(&mut self) -> Parsed<Step> {
        let from = self.integer()?;
        if self.separator(":") {
            let to = self.integer()?;
            let step = if self.separator(":") { self.integer()? } else { None };
            let step = usize::try_from(step.unwrap_or(1)).unwrap_or(0);
            return if step == 0 {
                Err("a step must be positive")
            } else {
                Ok(Step::Slice(from, to, step))
            };
        }
        let mut all = vec![from.ok_or("an index is missing")?];
        while self.separator(",") {
            all.push(self.integer()?.ok_or("an index is missing")?);
        }
        Ok(Step::Indexes(all))
    }

    fn integer(&mut self) -> Parsed<Option<i64>> {
        self.spaces();
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '-' && c != '+')
            .unwrap_or(rest.len());
        let digits = rest.get(..end).unwrap_or_default();
        if digits.is_empty() {
            return Ok(None);
        }
        let number = digits.parse().map_err(|_| "not an index")?;
        self.at += end;
        Ok(Some(number))
    }

    fn quoted(&mut self) -> Parsed<String> {
        let mut chars = self.rest().char_indices();
        let quote = match chars.next() {
            Some((_, c @ ('\'' | '"'))) => c,
            _ => return Err("a quoted name is missing"),
        };
        let mut out = String::new();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.at += i + 1;
                return Ok(out);
            }
            match c {
                '\\' => out.extend(chars.next().map(|(_, c)| c)),
                c => out.push(c),
            }
        }
        Err("a quote is not closed")
    }

    fn filter(&mut self) -> Parsed<Step> {
        const DEEPEST: usize = 8;
        if self.depth >= DEEPEST {
            return Err("filters nest too deep");
        }
        self.depth += 1;
        let left = self.operand()?;
        self.spaces();
        let operators = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessEqual),
            (">=", Compare::GreaterEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ];
        let operator = operators
            .into_iter()
            .find(|(token, _)| self.take(token))
            .map(|(_, c)| c);
        let right = match operator {
            Some(compare) => Some((compare, self.operand()?)),
            None => None,
        };
        self.expect(")", "a filter is not closed")?;
        self.depth -= 1;
        Ok(Step::Filter(left, right))
    }

    fn operand(&mut self) -> Parsed<Operand> {
        self.spaces();
        if self.rest().starts_with(['\'', '"']) {
            return Ok(Operand::Literal(Value::String(self.quoted()?)));
        }
        if self.rest().starts_with(['@', '$', '.']) {
            return Ok(Operand::Path(self.path(true)?));
        }
        let rest = self.rest();
        let end = rest
            .find(|c: char| c.is_whitespace() || ")=!<>".contains(c))
            .unwrap_or(rest.len());
        let word = rest.get(..end).unwrap_or_default();
        let literal = serde_json::from_str(word).map_err(|_| "neither a path nor a literal")?;
        self.at += end;
        Ok(Operand::Literal(literal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn paths_select_what_kubectl_selects() {
        let doc = json!({
            "spec": {"x": 1, "a.b": 2, "list": [{"n": "a", "v": 1}, {"n": "b", "v": 2}, {"n": "c"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Live", "status": "False"}]},
        });
        for (path, want) in [
            (".spec.x", json!([1])),
            ("{.spec.x}", json!([1])),
            ("$.spec.x", json!([1])),
            ("spec.x", json!([1])),
            (".spec['a.b']", json!([2])),
            (r".spec.a\.b", json!([2])),
            (".spec.list[0].n", json!(["a"])),
            (".spec.list[-1].n", json!(["c"])),
            (".spec.list[9].n", json!([])),
            (".spec.list[*].n", json!(["a", "b", "c"])),
            (".spec.list[0,2].n", json!(["a", "c"])),
            (".spec.list[1:].n", json!(["b", "c"])),
            (".spec.list[:-1].n", json!(["a", "b"])),
            (".spec.list[::2].n", json!(["a", "c"])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (r#".status.conditions[?(@.type == 'Live')].status"#, json!(["False"])),
            (".spec.list[?(@.v)].n", json!(["a", "b"])),
            (".spec.list[?(@.v>1)].n", json!(["b"])),
            (".spec.list[?(@.v <= 1)].n", json!(["a"])),
            (".spec.list[?(@.n != \"a\")].n", json!(["b", "c"])),
            ("..type", json!(["Ready", "Live"])),
            (
                ".status.conditions[*]['type','status']",
                json!(["Ready", "True", "Live", "False"]),
            ),
            (".spec.x.y", json!([])),
            (".absent", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&doc)), want, "{path}");
        }
        assert_eq!(JsonPath::parse(".").unwrap().first(&doc), Some(&doc));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in [
            ".a[",
            ".a['b",
            ".a[?(@.x",
            ".a[x]",
            ".a..",
            ".a[0",
            "a b",
            ".a[::0]",
            ".a[?(@.x==y)]",
        ] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
        let err = JsonPath::parse(".a[x]").unwrap_err();
        assert_eq!(err.to_string(), "an index is missing at 3 of JSONPath .a[x]");
    }

    proptest! {
        #[test]
        fn junk_never_panics(path in "[.\\[\\]?@()'\"a=<,:*0\\-\\\\{}$é ]{0,24}", v in crate::shape::samples::any_value()) {
            if let Ok(path) = JsonPath::parse(&path) {
                let _ = path.find(&v);
            }
        }
    }
}
