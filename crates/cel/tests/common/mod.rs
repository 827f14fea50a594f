//! Shared by the tests: an environment with a bit of everything, and ways to run tables.

use cel::{Activation, Budget, Decl, Env, Extension, Program, Value, describe};

/// `x` is anything, extensions are on.
pub fn env() -> Env {
    Env::new()
        .variable("x", Decl::any())
        .extension(Extension::Bind)
        .extension(Extension::Encoders)
        .extension(Extension::Math)
}

/// Compiles or says why not.
pub fn compile(source: &str) -> Result<Program, String> {
    Program::compile(&env(), source).map_err(|e| describe(&e))
}

/// Evaluates to what a bool is, or the error's text.
pub fn holds(source: &str) -> Result<bool, String> {
    let program = compile(source)?;
    let x = serde_json::json!({"a": 1, "list": [1, 2, 3], "s": "text", "n": null, "deep": {"b": {"c": true}}});
    let activation = Activation::new().json("x", &x);
    match program.evaluate(&activation, &mut Budget::default()) {
        Ok(Value::Bool(b)) => Ok(b),
        Ok(other) => Err(format!("not a bool: {other:?}")),
        Err(e) => Err(e.to_string()),
    }
}

/// Every source is true.
pub fn all_true(sources: &[&str]) {
    let wrong: Vec<String> = sources
        .iter()
        .filter_map(|s| match holds(s) {
            Ok(true) => None,
            other => Some(format!("{s}\n    {other:?}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every source fails, when compiled or evaluated, with such a text.
pub fn all_fail(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(s, expected)| match holds(s) {
            Err(e) if e.contains(expected) => None,
            other => Some(format!("{s}\n    wanted {expected:?}, got {other:?}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
