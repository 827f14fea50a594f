//! The API server: REST, watch, discovery, authentication, authorisation, admission.
