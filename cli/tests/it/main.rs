//! The binary `arc` from outside, each test in a machine of its own.

// A test may fail where it stands, and say that it was skipped.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod fleet;
mod http;
mod sandbox;
mod source;

mod bits;
mod command_line;
mod coordinator_fails;
mod full_disks;
mod nonsense;
mod pushes;
mod refusals;
mod servers_fail;
mod services;
