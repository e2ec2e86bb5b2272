//! A storage server over real HTTP, with a coordinator that only answers joins and hellos.

mod control;
mod get;
mod memory;
mod put;
mod start;
mod support;
mod trouble;
