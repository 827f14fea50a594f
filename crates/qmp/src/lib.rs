//! QEMU machine protocol client.
