//! The encoder cache: which rows of the `Embeds` region hold which picture. Host logic only; who encodes is not its matter.
//!
//! A picture's rows lie together. They are pinned while a sequence needs them, and stay afterwards until the room is needed.

use crate::kv::prefix::Key;
use crate::media::patches::Patches;
use std::ops::Range;
use std::sync::Arc;

/// A picture that has rows.
#[derive(Debug)]
struct Entry {
    key: Key,
    rows: Range<usize>,
    pins: usize,
    used: u64,
    /// What is to be encoded; none once it is.
    pending: Option<Arc<Patches>>,
}

/// A picture that waits for the tower.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub key: Key,
    pub row: usize,
    pub patches: Arc<Patches>,
}

/// Pictures by key, oldest wish first.
#[derive(Debug)]
pub(super) struct Pictures {
    rows: usize,
    entries: Vec<Entry>,
    clock: u64,
}

impl Pictures {
    /// Room for so many rows.
    pub fn new(rows: usize) -> Self {
        Pictures { rows, entries: Vec::new(), clock: 0 }
    }

    /// Takes or shares the `len` rows of a picture and gives the first; none if those that are pinned leave no room.
    pub fn pin(&mut self, key: &Key, patches: &Arc<Patches>, len: usize) -> Option<usize> {
        self.clock += 1;
        if !self.entries.iter().any(|e| e.key == *key) {
            let start = self.place(len)?;
            let pending = Some(patches.clone());
            self.entries.push(Entry { key: *key, rows: start..start + len, pins: 0, used: 0, pending });
        }
        let entry = self.entries.iter_mut().find(|e| e.key == *key)?;
        entry.pins += 1;
        entry.used = self.clock;
        Some(entry.rows.start)
    }

    /// Gives a pin back. What is not encoded and nobody wants any more is forgotten.
    pub fn unpin(&mut self, key: &Key) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.key == *key) {
            entry.pins -= 1;
        }
        self.entries.retain(|e| e.pins > 0 || e.pending.is_none());
    }

    /// True once a picture is encoded.
    pub fn is_ready(&self, key: &Key) -> bool {
        self.entries.iter().any(|e| e.key == *key && e.pending.is_none())
    }

    /// The picture that the tower should encode next.
    pub fn wanted(&self) -> Option<Wanted> {
        self.entries.iter().find_map(|e| {
            let patches = e.pending.clone()?;
            Some(Wanted { key: e.key, row: e.rows.start, patches })
        })
    }

    /// Says that a picture's rows are there.
    pub fn encoded(&mut self, key: &Key) {
        self.entries.iter_mut().filter(|e| e.key == *key).for_each(|e| e.pending = None);
    }

    /// Rows that someone needs.
    pub fn pinned(&self) -> usize {
        self.entries.iter().filter(|e| e.pins > 0).map(|e| e.rows.len()).sum()
    }

    /// Forgets what nobody needs.
    pub fn clear(&mut self) {
        self.entries.retain(|e| e.pins > 0);
    }

    /// The first of `len` free rows, after forgetting those used longest ago as far as it takes.
    fn place(&mut self, len: usize) -> Option<usize> {
        // The gaps that pinned rows leave say whether it is worth forgetting anything.
        let pinned = self.entries.iter().filter(|e| e.pins > 0).map(|e| e.rows.clone());
        self.gap(pinned, len)?;
        loop {
            if let Some(start) = self.gap(self.entries.iter().map(|e| e.rows.clone()), len) {
                return Some(start);
            }
            let unused = self.entries.iter().enumerate().filter(|(_, e)| e.pins == 0);
            let oldest = unused.min_by_key(|(_, e)| e.used)?.0;
            self.entries.remove(oldest);
        }
    }

    fn gap(&self, taken: impl Iterator<Item = Range<usize>>, len: usize) -> Option<usize> {
        let mut taken: Vec<Range<usize>> = taken.collect();
        taken.sort_unstable_by_key(|rows| rows.start);
        let start =
            taken.iter().fold(0, |start, rows| if rows.start >= start + len { start } else { start.max(rows.end) });
        (start + len <= self.rows).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_someone_needs_are_never_given_away() {
        let patches = Arc::new(Patches { data: Vec::new(), grid_thw: [1, 2, 2], resized: (28, 28) });
        let mut pictures = Pictures::new(10);
        let pin = |pictures: &mut Pictures, key: u8, len| pictures.pin(&[key; 32], &patches, len);
        assert_eq!([pin(&mut pictures, 1, 4), pin(&mut pictures, 2, 6)], [Some(0), Some(4)]);
        pictures.encoded(&[2; 32]);
        pictures.unpin(&[2; 32]);
        // The first was used longer ago, but is needed.
        assert_eq!([pin(&mut pictures, 3, 6), pin(&mut pictures, 4, 1)], [Some(4), None]);
        assert_eq!([pin(&mut pictures, 1, 4), pin(&mut pictures, 2, 6)], [Some(0), None]);
    }
}
