//! The Common Expression Language as Kubernetes 1.36 uses it: validation rules of custom
//! resources, admission policies, match conditions, device selectors, authorization.
//!
//! A pure crate: text and JSON in, values out. It must not know where rules come from, what is
//! done with what they say, or ask anyone anything; the authorizer is a callback.
//!
//! ```
//! use cel::{Activation, Budget, Env, Program, from_schema};
//! use serde_json::json;
//!
//! let schema = json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
//! let decl = from_schema(&schema, "self", false).ok_or("rules see nothing of this schema")?;
//! let env = Env::new().variable("self", decl);
//! let program = Program::compile(&env, "self.replicas <= 5").map_err(|e| cel::describe(&e))?;
//! assert!(program.estimated_cost().max <= cel::PER_CALL_LIMIT);
//!
//! let object = json!({"replicas": 3});
//! let activation = Activation::new().json("self", &object);
//! let value = program.evaluate(&activation, &mut Budget::default()).map_err(|e| e.to_string())?;
//! assert_eq!(value.as_bool(), Some(true));
//! # Ok::<(), String>(())
//! ```
//!
//! # The way of an expression
//!
//! `lexer` and `parser` make a tree and expand macros (`macros`), within a length and a depth
//! that let everything after them recurse. `check` gives types and meanings, by the table of
//! functions (`decls`, `table`) and unification (`unify`). `estimate` says what it may cost.
//! `plan` makes the [`Program`]: names become places, functions become pointers, constant
//! patterns are compiled. `eval` walks that, charging a meter; JSON is borrowed throughout and
//! read by its declared type ([`Decl`]) when it is looked at.
//!
//! # Why not the `cel` crate
//!
//! Looked at in version 0.13. Its parser is generated for an ANTLR runtime, which brings lazy
//! statics, nom and chrono, recurses without a bound of its own and has other messages than
//! upstream's. There is no checker and no cost, values are copied out of JSON and dispatched
//! through boxes, and objects have no declared types. What remained would have been a grammar of a
//! page, so the parser is ours as well. Names clash on purpose: nothing else here is to use that one.
//!
//! # Where it differs from upstream
//!
//! - The first syntax error is the only one; upstream's parser goes on.
//! - Constant lists and maps cost nothing, conversions of constants are made once (and charged
//!   each time); membership in constant lists is charged by their length.
//! - The target of `optMap` is evaluated once. `cel.bind` evaluates its value even if it is not used.
//! - Work that upstream's units do not see (comparing deep values, compiling patterns that are not
//!   constants) is bounded, in proportion to the limit.
//! - Protocol buffers' own messages, enums and unknown values are not there; Kubernetes has none.
//! - The extension math has no operations on bits; upstream's base environment has none of it.
#![warn(missing_docs)]

mod activation;
pub mod ast;
mod authorizer;
mod builtin;
mod check;
mod convert;
mod cost;
mod decls;
mod env;
mod error;
mod escape;
mod estimate;
mod estimate_call;
mod eval;
mod format;
mod formats;
mod json;
mod kube;
mod lexer;
mod lists;
mod literal;
mod macros;
mod meter;
mod ops;
mod owned;
mod parser;
mod plan;
mod program;
mod range;
mod regexp;
mod schema;
mod semver;
mod strings;
mod table;
mod time;
pub mod types;
mod unify;
mod url;
mod value;

pub use activation::Activation;
pub use authorizer::{Authorizer, Decision, Question, ResourceCheck, Subject};
pub use env::{Env, Extension};
pub use error::{CompileError, ErrorKind, EvalError, describe};
pub use escape::{escape, unescape};
pub use formats::Format;
pub use meter::{Budget, ESTIMATE_LIMIT, PER_CALL_LIMIT, PER_REQUEST_LIMIT, SCHEMA_ESTIMATE_LIMIT};
pub use parser::{MAX_DEPTH, MAX_SOURCE, Parsed};
pub use program::Program;
pub use range::CostEstimate;
pub use schema::from_schema;
pub use semver::Version;
pub use time::Timestamp;
pub use types::{Decl, Type};
pub use url::Url;
pub use value::{Fields, List, Map, Opaque, OwnedList, OwnedMap, Text, Value};
