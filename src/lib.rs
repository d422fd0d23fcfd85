//! Osprey: a from-scratch kernel engine for the Qwen-VL family.
//!
//! A model records a [`plan`]: a flat list of typed ops over pre-assigned buffers. An executor loads a plan once and replays it.
//! Data goes one way: bytes -> request -> tokens and patches -> step inputs -> plan -> token -> text.

pub mod checkpoint;
pub mod cli;
pub mod cpu;
pub mod data;
pub mod dtype;
pub mod engine;
pub mod error;
pub mod exec;
pub mod file;
pub mod hostmem;
pub mod intake;
pub mod kv;
pub mod launch;
pub mod media;
pub mod model;
pub mod ops;
pub mod pack;
pub mod plan;
pub mod ptx;
pub mod quant;
pub mod quantize;
pub mod server;
pub mod step;
pub mod tensor;
pub mod text;
pub mod weights;
