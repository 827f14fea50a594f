//! CRI client: containers through containerd or CRI-O.
