//! Certificates, signing keys, tokens and kubeconfig files.
