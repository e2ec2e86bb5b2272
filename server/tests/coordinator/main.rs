//! The coordinator as its clients and servers meet it: a real one on loopback, with storage
//! servers that only answer probes, and receipts made by hand.

// Clippy knows test functions, not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;
mod shelf;

mod access;
mod events;
mod facts;
mod fleet;
mod lists;
mod push;
mod reconcile;
mod restart;
