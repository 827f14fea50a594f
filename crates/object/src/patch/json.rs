//! JSON patch (RFC 6902). Must not look at a schema.

use serde_json::{Map, Value};

use super::PatchError;

/// The most operations in one patch, as upstream has it.
pub const MAX_OPERATIONS: usize = 10_000;

/// The most nodes that `copy` may add in one patch: copying a document into itself doubles it.
const MAX_COPIED: usize = 1_000_000;

/// The deepest that an added value may end up, for `copy` and `add` could nest without end.
const MAX_DEPTH: usize = crate::decode::MAX_DEPTH;

/// RFC 6902. The value is unchanged when an operation fails.
pub fn json(value: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let malformed = |what: String| PatchError::Malformed(format!("error decoding patch: {what}"));
    let Value::Array(operations) = patch else {
        return Err(malformed("a JSON patch is a list of operations".into()));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let parsed = operations
        .iter()
        .map(Operation::parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(malformed)?;
    let (mut work, mut copied) = (value.clone(), 0);
    parsed.iter().try_for_each(|op| op.apply(&mut work, &mut copied))?;
    *value = work;
    Ok(())
}

/// One operation, checked for form.
enum Operation<'p> {
    Add(Pointer<'p>, &'p Value),
    Remove(Pointer<'p>),
    Replace(Pointer<'p>, &'p Value),
    Move { from: Pointer<'p>, path: Pointer<'p> },
    Copy { from: Pointer<'p>, path: Pointer<'p> },
    Test(Pointer<'p>, &'p Value),
}

impl<'p> Operation<'p> {
    fn parse(op: &'p Value) -> Result<Self, String> {
        let Value::Object(op) = op else {
            return Err("an operation is an object".into());
        };
        let path = || Pointer::parse(op, "path");
        let from = || Pointer::parse(op, "from");
        let value = || op.get("value");
        let given = || value().ok_or_else(|| "an operation lacks its value".to_owned());
        Ok(match op.get("op").and_then(Value::as_str).unwrap_or_default() {
            "add" => Operation::Add(path()?, given()?),
            "remove" => Operation::Remove(path()?),
            "replace" => Operation::Replace(path()?, given()?),
            "move" => Operation::Move {
                from: from()?,
                path: path()?,
            },
            "copy" => Operation::Copy {
                from: from()?,
                path: path()?,
            },
            // Upstream takes a missing value for null here.
            "test" => Operation::Test(path()?, value().unwrap_or(&Value::Null)),
            other => return Err(format!("unexpected operation kind {}", meta::field::quoted(other))),
        })
    }

    fn apply(&self, doc: &mut Value, copied: &mut usize) -> Result<(), PatchError> {
        match self {
            Operation::Add(path, value) => path.add(doc, (*value).clone(), "add"),
            Operation::Remove(path) => path.remove(doc, "remove").map(drop),
            Operation::Replace(path, value) => {
                *path.find_mut(doc).ok_or_else(|| path.missing("replace", "key"))? = (*value).clone();
                path.check_depth(value, "replace")
            }
            Operation::Move { from, path } => {
                let inside = path.parts.len() > from.parts.len() && path.parts.starts_with(&from.parts);
                if inside {
                    return Err(PatchError::DoesNotFit(format!(
                        "move operation does not apply: {} is inside {}",
                        path.text, from.text
                    )));
                }
                let value = from.remove(doc, "move")?;
                path.add(doc, value, "move")
            }
            Operation::Copy { from, path } => {
                let value = from.find(doc).ok_or_else(|| from.missing("copy", "path"))?;
                *copied += size(value);
                if *copied > MAX_COPIED {
                    return Err(PatchError::TooLarge("the patch copies too much".into()));
                }
                let value = value.clone();
                path.add(doc, value, "copy")
            }
            Operation::Test(path, value) => match (path.find(doc), value) {
                (Some(found), value) if found == *value => Ok(()),
                (None, Value::Null) => Ok(()),
                _ => Err(PatchError::DoesNotFit(format!(
                    "testing value {} failed: test failed",
                    path.text
                ))),
            },
        }
    }
}

/// A JSON pointer (RFC 6901).
struct Pointer<'p> {
    text: &'p str,
    parts: Vec<String>,
}

impl<'p> Pointer<'p> {
    fn parse(op: &'p Map<String, Value>, field: &str) -> Result<Self, String> {
        let text = op
            .get(field)
            .and_then(Value::as_str)
            .ok_or_else(|| format!("an operation lacks its {field}"))?;
        if !text.is_empty() && !text.starts_with('/') {
            return Err(format!(
                "{field} {} does not start with \"/\"",
                meta::field::quoted(text)
            ));
        }
        let parts = text
            .split('/')
            .skip(1)
            .map(|p| p.replace("~1", "/").replace("~0", "~"))
            .collect();
        Ok(Pointer { text, parts })
    }

    fn missing(&self, op: &str, what: &str) -> PatchError {
        let text = self.text;
        PatchError::DoesNotFit(format!(
            "{op} operation does not apply: doc is missing {what}: {text}: missing value"
        ))
    }

    fn find<'v>(&self, doc: &'v Value) -> Option<&'v Value> {
        self.parts.iter().try_fold(doc, |v, part| match v {
            Value::Object(map) => map.get(part),
            Value::Array(list) => list.get(index(part)?),
            _ => None,
        })
    }

    fn find_mut<'v>(&self, doc: &'v mut Value) -> Option<&'v mut Value> {
        walk_mut(doc, &self.parts)
    }

    fn add(&self, doc: &mut Value, value: Value, op: &str) -> Result<(), PatchError> {
        self.check_depth(&value, op)?;
        let Some((last, parents)) = self.parts.split_last() else {
            *doc = value;
            return Ok(());
        };
        match walk_mut(doc, parents) {
            Some(Value::Object(map)) => {
                map.insert(last.clone(), value);
                Ok(())
            }
            Some(Value::Array(list)) => {
                let at = if last == "-" { Some(list.len()) } else { index(last) };
                match at.filter(|i| *i <= list.len()) {
                    Some(i) => {
                        list.insert(i, value);
                        Ok(())
                    }
                    None => Err(PatchError::DoesNotFit(format!(
                        "{op} operation does not apply: Unable to access invalid index: {last}: invalid index referenced"
                    ))),
                }
            }
            _ => Err(self.missing(op, "path")),
        }
    }

    fn remove(&self, doc: &mut Value, op: &str) -> Result<Value, PatchError> {
        let missing = || self.missing(op, "path");
        let Some((last, parents)) = self.parts.split_last() else {
            return Ok(doc.take());
        };
        match walk_mut(doc, parents) {
            Some(Value::Object(map)) => map.remove(last).ok_or_else(missing),
            Some(Value::Array(list)) => {
                let i = index(last).filter(|i| *i < list.len()).ok_or_else(missing)?;
                Ok(list.remove(i))
            }
            _ => Err(missing()),
        }
    }

    fn check_depth(&self, value: &Value, op: &str) -> Result<(), PatchError> {
        if fits(value, MAX_DEPTH.saturating_sub(self.parts.len())) {
            return Ok(());
        }
        Err(PatchError::DoesNotFit(format!(
            "{op} operation does not apply: exceeded max depth of {MAX_DEPTH}"
        )))
    }
}

fn walk_mut<'v>(doc: &'v mut Value, parts: &[String]) -> Option<&'v mut Value> {
    parts.iter().try_fold(doc, |v, part| match v {
        Value::Object(map) => map.get_mut(part),
        Value::Array(list) => list.get_mut(index(part)?),
        _ => None,
    })
}

/// An index without sign or leading zeros.
fn index(part: &str) -> Option<usize> {
    let plain = part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    plain.then(|| part.parse().ok()).flatten()
}

fn fits(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(list) => depth > 0 && list.iter().all(|v| fits(v, depth - 1)),
        Value::Object(map) => depth > 0 && map.values().all(|v| fits(v, depth - 1)),
        _ => true,
    }
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        Value::String(s) => s.len() / 16,
        _ => 0,
    }
}
