//! A model folder on disk: config, tensors, names. Knows nothing of executors.
//!
//! Everything is checked before it is used, so that what follows may trust shapes and sizes; weights stay in the file's mapping, unaligned. What
//! surprises: names are brought to the published on-disk ones, whatever wrapper a tool saved them under.

pub mod config;
pub mod generation;
mod header;
pub mod hub;
mod index;
pub mod inventory;
mod json;
pub mod lora;
pub mod names;
pub mod quantized;
pub mod safetensors;
pub mod storage;
pub mod summary;
mod verify;
pub mod weights;
pub mod writer;

pub use config::{Config, TextConfig, VisionConfig};
pub use generation::GenerationConfig;
pub use safetensors::Checkpoint;
pub use storage::{StoredMatrix, StoredTensor};
pub use summary::Summary;
pub use weights::{ModelFiles, Weights};
pub use writer::{Declared, FolderWriter, Job};
