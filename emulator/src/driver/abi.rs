//! Reading and writing through the pointers of C callers.

use super::error::{Error, R};
use std::ffi::{CStr, c_char};

/// Writes a result; there must be a place for it.
pub unsafe fn put<T>(to: *mut T, value: T) -> R {
    if to.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: not null, so good for a `T` by the API's contract.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a result that the caller may not want.
pub unsafe fn offer<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: as in `put`.
        unsafe { to.write(value) };
    }
}

/// Reads a structure.
pub unsafe fn get<T: Copy>(from: *const T) -> R<T> {
    if from.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: not null, so a `T` is there by the API's contract.
    Ok(unsafe { from.read() })
}

/// An array of the caller; null is an empty one.
pub unsafe fn list<'a, T>(from: *const T, count: usize) -> R<&'a [T]> {
    match (from.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Error::INVALID_VALUE),
        _ if !from.is_aligned() || count > isize::MAX as usize / size_of::<T>().max(1) => Err(Error::INVALID_VALUE),
        // SAFETY: `count` elements are there by the API's contract.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(from, count) }),
    }
}

/// A name or path.
pub unsafe fn text<'a>(from: *const c_char) -> R<&'a str> {
    if from.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: not null, so a terminated string by the API's contract.
    unsafe { CStr::from_ptr(from) }.to_str().map_err(|_| Error::INVALID_VALUE)
}

/// Writes as much of a text as fits into `room` bytes with its terminator; says how many bytes that were.
pub unsafe fn put_text(to: *mut c_char, room: usize, text: &str) -> R<usize> {
    if to.is_null() || room == 0 {
        return Err(Error::INVALID_VALUE);
    }
    let count = text.len().min(room - 1);
    // SAFETY: `room` bytes are there by the API's contract.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), count);
        to.add(count).write(0);
    }
    Ok(count + 1)
}

/// The two calls of a listing: without an array the count, with one as many as fit; `count` then says how many.
pub unsafe fn put_list(to: *mut usize, count: *mut usize, items: &[usize]) -> R {
    if to.is_null() {
        // SAFETY: passed on.
        return unsafe { put(count, items.len()) };
    }
    // SAFETY: the array has as many places as `count` says.
    unsafe {
        let room = get(count)?;
        for (i, place) in (0..room).zip(std::iter::successors(Some(to), |p| Some(p.add(1)))) {
            place.write(items.get(i).copied().unwrap_or(0));
        }
        put(count, items.len().min(room))
    }
}
