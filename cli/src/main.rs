//! arc
fn main() {}
