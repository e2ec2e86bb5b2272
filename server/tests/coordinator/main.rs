//! The coordinator as its clients and servers meet it: a real one on loopback, with storage
//! servers that only answer probes, and receipts made by hand.

mod fixture;

mod access;
mod fleet;
mod lists;
mod push;
mod restart;
