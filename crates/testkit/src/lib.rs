//! What end-to-end tests share: a server, a kubectl, a deadline.
