//! LoRA adapters as PEFT saves them, and the weights of a model with one merged in.
//!
//! An [`Adapter`] is a folder on disk, checked by itself; [`Merged`] is a model that gives each weight, by its canonical name, with the adapter's change added
//! when asked for it. Knows nothing of who asks. What surprises: an adapter that touches the embedding or the head of a model whose head is tied unties them.

mod adapter;
mod config;
mod keys;
mod merged;

pub use adapter::Adapter;
pub use merged::Merged;
