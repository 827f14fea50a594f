//! Where a walk through an object is: frames on the stack, so that a path costs
//! nothing until somebody prints it. Must not allocate while walking.

use std::fmt;

/// A path from the root to where the walk is.
#[derive(Clone, Copy)]
pub(crate) enum Trail<'a> {
    Root,
    Field(&'a Trail<'a>, &'a str),
    Index(&'a Trail<'a>, usize),
}

impl<'a> Trail<'a> {
    pub(crate) fn field(&'a self, name: &'a str) -> Trail<'a> {
        Trail::Field(self, name)
    }

    pub(crate) fn index(&'a self, i: usize) -> Trail<'a> {
        Trail::Index(self, i)
    }

    /// As a path of field errors.
    pub(crate) fn path(&self) -> meta::field::Path {
        match self {
            Trail::Root => meta::field::Path::root(),
            other => meta::field::Path::new(&other.to_string()),
        }
    }
}

impl fmt::Display for Trail<'_> {
    /// `spec.containers[0].name`; nothing at the root.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trail::Root => Ok(()),
            Trail::Field(Trail::Root, name) => f.write_str(name),
            Trail::Field(parent, name) => write!(f, "{parent}.{name}"),
            Trail::Index(parent, i) => write!(f, "{parent}[{i}]"),
        }
    }
}
