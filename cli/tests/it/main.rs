//! The binary `arc` from outside, each test in a machine of its own.

// A test may fail where it stands, and say that it was skipped.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod anything;
mod fleet;
mod http;
mod sandbox;
mod shards;
mod source;
mod trees;

mod backup;
mod bits;
mod catalog;
mod command_line;
mod coordinator_fails;
mod damage;
mod disks;
mod drill;
mod events;
mod explain;
mod forged;
mod full_disks;
mod healing;
mod hostile;
mod key;
mod killed;
mod local;
mod nonsense;
mod output;
mod pull;
mod push;
mod push_again;
mod pushes;
mod rebalance;
mod reconcile;
mod refusals;
mod repair;
mod rescue;
mod round_trip;
mod servers_fail;
mod services;
mod slow;
mod throttle;
mod tls;
mod units;
