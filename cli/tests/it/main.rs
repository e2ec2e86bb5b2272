//! The binary `arc` from outside, each test in a machine of its own.

// A test may fail where it stands.
#![allow(clippy::unwrap_used)]

mod fleet;
mod sandbox;
mod source;

mod command_line;
mod pushes;
mod servers_fail;
mod services;
