//! Coordinator and storage servers that speak TLS, and whoever else listens or asks there.

// Clippy knows test functions, not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod strangers;
mod world;

mod certificates;
mod upgrade;
