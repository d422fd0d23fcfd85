//! Memory pools: names for the device's one memory, which reserves nothing.

use super::abi::{get, offer, put};
use super::error::{Error, R};
use super::handles::{Handle, Handles};
use super::memory::alloc_ordered;
use super::platform::platform;
use super::state::context::CONTEXTS;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

static POOLS: Handles<Pool> = Handles::new();

/// A pool of a device, with the attributes that were set.
struct Pool {
    ordinal: i32,
    set: Mutex<BTreeMap<i32, u64>>,
}

/// The default and the current pool of every device.
struct OfDevice {
    default: Handle,
    current: Handle,
}

fn devices() -> R<MutexGuard<'static, Vec<OfDevice>>> {
    static DEVICES: OnceLock<Mutex<Vec<OfDevice>>> = OnceLock::new();
    let count = platform()?.primaries.len() as i32;
    let pool = |ordinal| POOLS.insert(Pool { ordinal, set: Mutex::default() });
    let of_device = |ordinal| {
        let default = pool(ordinal);
        OfDevice { default, current: default }
    };
    let devices = DEVICES.get_or_init(|| Mutex::new((0..count).map(of_device).collect()));
    Ok(devices.lock().unwrap_or_else(|e| e.into_inner()))
}

fn pool(handle: Handle) -> R<Arc<Pool>> {
    POOLS.get(handle).ok_or(Error::INVALID_VALUE)
}

impl Pool {
    fn set(&self) -> MutexGuard<'_, BTreeMap<i32, u64>> {
        self.set.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Bytes that the device's primary context has in use.
    fn used(&self) -> R<u64> {
        let handle = platform()?.primaries[self.ordinal as usize].handle;
        Ok(CONTEXTS.get(handle).map_or(0, |context| context.gpu.memory.usage().0))
    }
}

/// `CUmemPool_attribute`: 1 to 3 are 32-bit switches, on by default; 4 is the release threshold; 5 to 8 are bytes.
const SWITCHES: std::ops::RangeInclusive<i32> = 1..=3;
const THRESHOLD: i32 = 4;
const BYTES: std::ops::RangeInclusive<i32> = 5..=8;

/// `CUmemPoolProps` up to what matters here.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    kind: i32,
    handle_types: i32,
    location: i32,
    ordinal: i32,
}

api! {
    fn cuDeviceGetDefaultMemPool [] (to: *mut Handle, ordinal: i32) {
        let index = platform()?.device(ordinal)?;
        put(to, devices()?[index].default)
    }
    fn cuDeviceGetMemPool [] (to: *mut Handle, ordinal: i32) {
        let index = platform()?.device(ordinal)?;
        put(to, devices()?[index].current)
    }
    fn cuDeviceSetMemPool [] (ordinal: i32, handle: Handle) {
        let index = platform()?.device(ordinal)?;
        pool(handle)?;
        devices()?[index].current = handle;
        Ok(())
    }
    fn cuMemPoolCreate [] (to: *mut Handle, properties: *const Properties) {
        const PINNED: i32 = 1;
        const ON_DEVICE: i32 = 1;
        let Properties { kind, handle_types, location, ordinal } = get(properties)?;
        platform()?.device(ordinal)?;
        if kind != PINNED || handle_types != 0 || location != ON_DEVICE {
            return Err(Error::NOT_SUPPORTED);
        }
        put(to, POOLS.insert(Pool { ordinal, set: Mutex::default() }))
    }
    fn cuMemPoolDestroy [] (handle: Handle) {
        pool(handle)?;
        let mut devices = devices()?;
        if devices.iter().any(|device| device.default == handle) {
            return Err(Error::INVALID_VALUE);
        }
        for device in devices.iter_mut().filter(|device| device.current == handle) {
            device.current = device.default;
        }
        POOLS.remove(handle);
        Ok(())
    }
    fn cuMemPoolTrimTo [] (handle: Handle, _keep: usize) { pool(handle).map(|_| ()) }
    fn cuMemPoolSetAttribute [] (handle: Handle, number: i32, value: *const c_void) {
        let value = match number {
            _ if SWITCHES.contains(&number) => get(value.cast::<u32>())?.into(),
            THRESHOLD => get(value.cast::<u64>())?,
            // A high mark may be set to 0, which resets it; none is kept.
            _ if BYTES.contains(&number) => return pool(handle).map(|_| ()),
            _ => return Err(Error::INVALID_VALUE),
        };
        pool(handle)?.set().insert(number, value);
        Ok(())
    }
    fn cuMemPoolGetAttribute [] (handle: Handle, number: i32, to: *mut c_void) {
        let pool = pool(handle)?;
        let set = pool.set().get(&number).copied();
        match number {
            _ if SWITCHES.contains(&number) => put(to.cast(), set.unwrap_or(1) as u32),
            THRESHOLD => put(to.cast(), set.unwrap_or(0)),
            _ if BYTES.contains(&number) => put(to.cast(), pool.used()?),
            _ => Err(Error::INVALID_VALUE),
        }
    }
    /// Other devices have no access, and none can be given.
    fn cuMemPoolSetAccess [] (handle: Handle, _access: *const c_void, _count: usize) { pool(handle).map(|_| ()) }
    fn cuMemPoolGetAccess [] (to: *mut u32, handle: Handle, location: *const [i32; 2]) {
        const READ_WRITE: u32 = 3;
        let [_, ordinal] = get(location)?;
        offer(to, if ordinal == pool(handle)?.ordinal { READ_WRITE } else { 0 });
        Ok(())
    }
    fn cuMemAllocFromPoolAsync [cuMemAllocFromPoolAsync_ptsz]
        (to: *mut u64, bytes: usize, handle: Handle, stream: Handle)
    {
        pool(handle)?;
        alloc_ordered(to, bytes, stream)
    }
}
