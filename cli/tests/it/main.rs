//! The binary `arc` from outside, each test in a machine of its own.

// A test may fail where it stands.
#![allow(clippy::unwrap_used)]

mod sandbox;

mod command_line;
mod services;
