//! Shared caches over list and watch, with indexes.
