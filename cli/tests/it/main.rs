//! The binary `arc` from outside, each test in a machine of its own.

// A test may fail where it stands.
#![allow(clippy::unwrap_used)]

mod sandbox;
mod shards;
mod trees;

mod command_line;
mod damage;
mod hostile;
mod local;
mod output;
mod pull;
mod push;
mod push_again;
mod round_trip;
mod services;
