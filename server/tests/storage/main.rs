//! A storage server over real HTTP, with a coordinator that only answers joins and hellos.

// Helpers outside of #[test] functions count as production code for these lints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod control;
mod fleet;
mod get;
mod inventory;
mod process;
mod put;
mod rebuild;
mod rebuild_trouble;
mod scrub;
mod start;
mod support;
mod throttle;
mod trouble;
