//! The fast CPU bodies that ops call: matrix products and attention over plain slices. Knows nothing of ops or plans.

/// Buffers.
#[derive(Debug, Default)]
pub struct Scratch;
