//! The Common Expression Language as Kubernetes uses it.
#![warn(missing_docs)]

pub mod ast;
mod error;
mod lexer;
mod literal;
mod macros;
mod parser;

pub use error::{CompileError, ErrorKind, EvalError, describe};
pub use parser::{MAX_DEPTH, MAX_SOURCE, Parsed};
