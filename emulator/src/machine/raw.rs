//! Bytes at host addresses that were checked before.

use crate::memory;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// One to eight bytes, zero-extended.
#[inline]
pub(super) fn load_narrow(address: u64, bytes: u32) -> u64 {
    match bytes {
        1 => memory::load::<AtomicU8>(address).into(),
        2 => memory::load::<AtomicU16>(address).into(),
        4 => memory::load::<AtomicU32>(address).into(),
        _ => memory::load::<AtomicU64>(address),
    }
}

#[inline]
pub(super) fn store_narrow(address: u64, bytes: u32, value: u64) {
    match bytes {
        1 => memory::store::<AtomicU8>(address, value as u8),
        2 => memory::store::<AtomicU16>(address, value as u16),
        4 => memory::store::<AtomicU32>(address, value as u32),
        _ => memory::store::<AtomicU64>(address, value),
    }
}

/// Up to 16 bytes, lowest first.
#[inline]
pub(super) fn gather(at: u64, bytes: u32) -> u128 {
    match bytes {
        4 | 8 => load_narrow(at, bytes).into(),
        16 => u128::from(load_narrow(at, 8)) | u128::from(load_narrow(at + 8, 8)) << 64,
        _ => (0..bytes).fold(0, |v, i| v | u128::from(load_narrow(at + u64::from(i), 1)) << (8 * i)),
    }
}

/// 4, 8 or 16 bytes.
#[inline]
pub(super) fn scatter(at: u64, bytes: u32, data: u128) {
    store_narrow(at, bytes.min(8), data as u64);
    if bytes == 16 {
        store_narrow(at + 8, 8, (data >> 64) as u64);
    }
}

/// Fills `to` from an address.
pub(super) fn read_run(at: u64, to: &mut [u8]) {
    if at.is_multiple_of(8) && to.len().is_multiple_of(8) {
        for (i, word) in to.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&memory::load::<AtomicU64>(at + 8 * i as u64).to_le_bytes());
        }
    } else {
        to.iter_mut().enumerate().for_each(|(i, b)| *b = memory::load::<AtomicU8>(at + i as u64));
    }
}

/// Writes `from` to an address.
pub(super) fn write_run(at: u64, from: &[u8]) {
    from.iter().enumerate().for_each(|(i, &b)| memory::store::<AtomicU8>(at + i as u64, b));
}
