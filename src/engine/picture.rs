//! A picture or video as a request carries it: the pixels, and the hash by which the caches know them.
//!
//! The hash is made with the picture, by whoever prepares a request: it reads every pixel, and a step must not wait for that.

use crate::kv::prefix::{Key, pixels_key};
use crate::media::patches::Patches;
use std::ops::Deref;
use std::sync::Arc;

/// Pixels that are never changed again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Picture {
    pub(super) patches: Arc<Patches>,
    pub(super) key: Key,
}

impl Picture {
    /// Hashes the pixels.
    pub fn new(patches: Patches) -> Picture {
        Picture { key: pixels_key(&patches.data, patches.grid_thw), patches: Arc::new(patches) }
    }
}

impl Deref for Picture {
    type Target = Patches;

    fn deref(&self) -> &Patches {
        &self.patches
    }
}
