//! End-to-end tests with real kubectl, real containers and real QEMU: see `tests/`.
