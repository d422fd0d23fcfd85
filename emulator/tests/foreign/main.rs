//! Kernels compiled by nvcc, for two architectures, against the same computation on the CPU.

#[path = "../common/mod.rs"]
mod common;

mod atomics;
mod bits;
mod control;
mod float;
mod half;
mod memory;
mod sync;
mod tiles;
mod warp;
