//! The object machinery: schemas, pruning, defaulting, patches, apply, JSONPath, tables.
