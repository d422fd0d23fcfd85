//! A CUDA driver on the CPU: runs PTX without a GPU, checks what it does, and counts what it costs.
//!
//! The way of a kernel: `ptx` parses the text and decodes every instruction once into `isa`; `program` is the result,
//! one flat list per kernel; `machine` runs it, a warp at a time; `memory` is the device's memory; `fault` and
//! `counters` are what comes out beside the data. `gpu` puts them together for Rust, and
//! `driver` is the C face (`cu*`) over it.
//!
//! Nothing here measures or predicts a time.

pub mod config;
pub mod counters;
pub mod device;
pub mod driver;
pub mod fault;
pub mod gpu;
pub mod isa;
pub mod machine;
pub mod memory;
pub mod program;
pub mod ptx;
pub mod registers;
pub mod tensor_map;
