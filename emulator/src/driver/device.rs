//! `cuInit`, versions, and what can be asked about a device.

use super::abi::{offer, put, put_text, text};
use super::error::{Error, R};
use super::platform::{init, platform};
use crate::device::{BLOCK_DIM, Device, GRID_DIM, REGISTERS_PER_BLOCK, THREADS_PER_BLOCK};
use std::ffi::c_char;

/// The CUDA version whose driver this imitates: 1000 major + 10 minor.
pub const DRIVER_VERSION: i32 = 13000;

/// The PCI domain of all devices; their buses count from 1.
const PCI_DOMAIN: i32 = 0;

fn device(ordinal: i32) -> R<&'static Device> {
    let platform = platform()?;
    Ok(&platform.config.devices[platform.device(ordinal)?])
}

/// `CUdevice_attribute`; None for numbers that the header does not have.
fn attribute(d: &Device, ordinal: i32, number: i32) -> Option<i32> {
    let clusters = d.capability.0 >= 9;
    let value = match number {
        1 => THREADS_PER_BLOCK,
        2..=4 => BLOCK_DIM[number as usize - 2],
        5..=7 => GRID_DIM[number as usize - 5],
        8 => d.shared_per_block,
        9 => 64 << 10,                  // TOTAL_CONSTANT_MEMORY
        10 => 32,                       // WARP_SIZE
        11 => i32::MAX as u32,          // MAX_PITCH
        12 | 82 => REGISTERS_PER_BLOCK, // of a block, of a multiprocessor
        13 => d.clock,
        14 | 30 => 512,    // TEXTURE_ALIGNMENT, SURFACE_ALIGNMENT
        15 | 19 | 31 => 1, // GPU_OVERLAP, CAN_MAP_HOST_MEMORY, CONCURRENT_KERNELS
        16 => d.multiprocessors,
        32 => u32::from(d.memory_bus > 1024), // ECC_ENABLED: on with HBM
        33 => ordinal as u32 + 1,             // PCI_BUS_ID
        36 => d.memory_clock,
        37 => d.memory_bus,
        38 => d.l2,
        39 => d.threads_per_multiprocessor,
        40 => 1,  // ASYNC_ENGINE_COUNT
        41 => 1,  // UNIFIED_ADDRESSING
        51 => 32, // TEXTURE_PITCH_ALIGNMENT
        75 => d.capability.0,
        76 => d.capability.1,
        78..=80 => 1, // STREAM_PRIORITIES_SUPPORTED, GLOBAL_L1_CACHE, LOCAL_L1_CACHE
        81 => d.shared_per_multiprocessor,
        83 => 1,              // MANAGED_MEMORY
        85 => ordinal as u32, // MULTI_GPU_BOARD_GROUP_ID
        87 => {
            if d.capability.1 == 0 {
                2
            } else {
                64
            }
        } // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        89 | 90 => 1,         // CONCURRENT_MANAGED_ACCESS, COMPUTE_PREEMPTION_SUPPORTED
        95 => 1,              // COOPERATIVE_LAUNCH
        97 => d.shared_per_block_optin,
        99 => 1, // HOST_REGISTER_SUPPORTED
        106 => d.blocks_per_multiprocessor,
        111 => 1024,                      // RESERVED_SHARED_MEMORY_PER_BLOCK
        115 => 1,                         // MEMORY_POOLS_SUPPORTED
        120 | 127 => u32::from(clusters), // CLUSTER_LAUNCH, TENSOR_MAP_ACCESS_SUPPORTED
        126 => {
            if clusters {
                4
            } else {
                1
            }
        } // MEM_SYNC_DOMAIN_COUNT
        // Textures, surfaces, virtual memory, sharing between processes and what else there is: not here.
        50 => PCI_DOMAIN as u32,
        17..=147 => 0,
        _ => return None,
    };
    Some(value as i32)
}

/// Sixteen bytes that tell the devices of a process apart and are the same in every run.
fn uuid(ordinal: i32) -> [u8; 16] {
    let mut bytes = *b"cuda-emulator\0\0\0";
    bytes[15] = ordinal as u8;
    bytes
}

fn pci_name(ordinal: i32) -> String {
    format!("{PCI_DOMAIN:04x}:{:02x}:00.0", ordinal + 1)
}

api! {
    /// Reads the environment once. Wrong variables: INVALID_VALUE, and why on stderr.
    fn cuInit [] (flags: u32) {
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        init()?;
        if platform()?.primaries.is_empty() { Err(Error::NO_DEVICE) } else { Ok(()) }
    }
    fn cuDriverGetVersion [] (version: *mut i32) { put(version, DRIVER_VERSION) }
    fn cuDeviceGet [] (to: *mut i32, ordinal: i32) {
        device(ordinal)?;
        put(to, ordinal)
    }
    fn cuDeviceGetCount [] (to: *mut i32) { put(to, platform()?.primaries.len() as i32) }
    fn cuDeviceGetName [] (to: *mut c_char, room: i32, ordinal: i32) {
        put_text(to, usize::try_from(room).unwrap_or(0), device(ordinal)?.name).map(|_| ())
    }
    fn cuDeviceGetUuid_v2 [cuDeviceGetUuid] (to: *mut [u8; 16], ordinal: i32) {
        device(ordinal)?;
        put(to, uuid(ordinal))
    }
    fn cuDeviceGetLuid [] (_luid: *mut c_char, _mask: *mut u32, _ordinal: i32) { Err(Error::NOT_SUPPORTED) }
    fn cuDeviceTotalMem_v2 [cuDeviceTotalMem] (to: *mut usize, ordinal: i32) {
        put(to, device(ordinal)?.memory as usize)
    }
    fn cuDeviceGetAttribute [] (to: *mut i32, number: i32, ordinal: i32) {
        put(to, attribute(device(ordinal)?, ordinal, number).ok_or(Error::INVALID_VALUE)?)
    }
    fn cuDeviceComputeCapability [] (major: *mut i32, minor: *mut i32, ordinal: i32) {
        let (x, y) = device(ordinal)?.capability;
        put(major, x as i32)?;
        put(minor, y as i32)
    }
    fn cuDeviceGetPCIBusId [] (to: *mut c_char, room: i32, ordinal: i32) {
        device(ordinal)?;
        put_text(to, usize::try_from(room).unwrap_or(0), &pci_name(ordinal)).map(|_| ())
    }
    fn cuDeviceGetByPCIBusId [] (to: *mut i32, name: *const c_char) {
        let (name, count) = (text(name)?, platform()?.primaries.len() as i32);
        let found = (0..count).find(|&i| pci_name(i).eq_ignore_ascii_case(name));
        put(to, found.ok_or(Error::INVALID_DEVICE)?)
    }
    /// No affinity of any kind.
    fn cuDeviceGetExecAffinitySupport [] (to: *mut i32, _kind: i32, ordinal: i32) {
        device(ordinal)?;
        put(to, 0)
    }
    /// Devices reach each other's memory by copies only.
    fn cuDeviceCanAccessPeer [] (to: *mut i32, ordinal: i32, peer: i32) {
        device(ordinal)?;
        device(peer)?;
        put(to, 0)
    }
    fn cuDeviceGetP2PAttribute [] (to: *mut i32, _number: i32, ordinal: i32, peer: i32) {
        device(ordinal)?;
        device(peer)?;
        if ordinal == peer {
            return Err(Error::INVALID_DEVICE);
        }
        offer(to, 0);
        Ok(())
    }
}
