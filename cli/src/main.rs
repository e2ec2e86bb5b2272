//! arc
#[allow(dead_code)]
mod tree;
fn main() {}
