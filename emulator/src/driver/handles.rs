//! What C callers hold: numbers that look like pointers, and what they stand for.
//!
//! A stale handle is found out, never followed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A handle: not null, and not one of the small numbers that stand for default streams.
pub type Handle = usize;

static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

/// A number that was never given out.
pub fn fresh() -> Handle {
    NEXT.fetch_add(16, Ordering::Relaxed)
}

/// The objects of one kind.
pub struct Handles<T> {
    map: RwLock<BTreeMap<Handle, Arc<T>>>,
}

impl<T> Handles<T> {
    pub const fn new() -> Self {
        Handles { map: RwLock::new(BTreeMap::new()) }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Handle, Arc<T>>> {
        self.map.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Handle, Arc<T>>> {
        self.map.write().unwrap_or_else(|e| e.into_inner())
    }

    pub fn insert(&self, object: T) -> Handle {
        let handle = fresh();
        self.insert_at(handle, Arc::new(object));
        handle
    }

    /// Gives an object a handle that was chosen before, replacing what had it.
    pub fn insert_at(&self, handle: Handle, object: Arc<T>) {
        self.write().insert(handle, object);
    }

    pub fn get(&self, handle: Handle) -> Option<Arc<T>> {
        self.read().get(&handle).cloned()
    }

    pub fn remove(&self, handle: Handle) -> Option<Arc<T>> {
        self.write().remove(&handle)
    }

    /// The first object for which `wanted` holds.
    pub fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        self.read().values().find(|object| wanted(object)).cloned()
    }

    /// The handle of the first object for which `wanted` holds.
    pub fn handle_of(&self, wanted: impl Fn(&T) -> bool) -> Option<Handle> {
        self.read().iter().find(|(_, object)| wanted(object)).map(|(&handle, _)| handle)
    }

    pub fn all(&self) -> Vec<Arc<T>> {
        self.read().values().cloned().collect()
    }

    /// Forgets the others. They are dropped after the lock is given back: dropping may look things up.
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        let gone: Vec<_> = self.write().extract_if(.., |_, object| !keep(object)).collect();
        drop(gone);
    }
}
