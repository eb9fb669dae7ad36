//! The `tengate` binary.
fn main() {}
