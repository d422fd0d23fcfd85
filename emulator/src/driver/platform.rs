//! What a process sees: the devices, configured once by the environment when `cuInit` is called, and the report file.
//!
//! `CUDA_EMU_DEVICES` and `CUDA_EMU_CHECKS` are texts for `Config::from_text`. `CUDA_EMU_REPORT` names a file that gets
//! a line of JSON per launch and per fault.

use super::error::{Error, R};
use super::handles::{Handle, fresh};
use crate::config::Config;
use std::env;
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, OnceLock};

/// See the module.
pub struct Platform {
    pub config: Config,
    /// The primary context of every device.
    pub primaries: Vec<Primary>,
    report: Option<Mutex<File>>,
}

/// A primary context's handle, which stays the same for ever, and its users.
pub struct Primary {
    pub handle: Handle,
    pub state: Mutex<PrimaryState>,
}

#[derive(Default)]
pub struct PrimaryState {
    pub users: u32,
    pub flags: u32,
}

static PLATFORM: OnceLock<R<Platform>> = OnceLock::new();

/// Reads the configuration; later calls change nothing.
pub fn init() -> R {
    PLATFORM.get_or_init(|| from_environment().map_err(refuse)).as_ref().map(|_| ()).map_err(|&e| e)
}

/// The platform, once there is one.
pub fn platform() -> R<&'static Platform> {
    PLATFORM.get().ok_or(Error::NOT_INITIALIZED)?.as_ref().map_err(|&e| e)
}

fn refuse(why: String) -> Error {
    say(&why);
    Error::INVALID_VALUE
}

fn from_environment() -> Result<Platform, String> {
    let (devices, checks) = (variable("CUDA_EMU_DEVICES")?, variable("CUDA_EMU_CHECKS")?);
    let config = Config::from_text(devices.as_deref(), checks.as_deref())
        .map_err(|why| format!("CUDA_EMU_DEVICES or CUDA_EMU_CHECKS: {why}"))?;
    let report = match variable("CUDA_EMU_REPORT")? {
        Some(path) => Some(Mutex::new(File::create(&path).map_err(|e| format!("CUDA_EMU_REPORT: {path}: {e}"))?)),
        None => None,
    };
    let primaries = config.devices.iter().map(|_| Primary { handle: fresh(), state: Mutex::default() }).collect();
    Ok(Platform { config, primaries, report })
}

fn variable(name: &str) -> Result<Option<String>, String> {
    match env::var(name) {
        Ok(text) => Ok(Some(text)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name} is not UTF-8")),
    }
}

/// One line on stderr for the user.
pub fn say(what: &str) {
    // A closed stderr is no error of the program's.
    let _ = writeln!(std::io::stderr(), "cuda-emulator: {}", what.replace('\n', " "));
}

impl Platform {
    /// The device of a number.
    pub fn device(&self, ordinal: i32) -> R<usize> {
        usize::try_from(ordinal).ok().filter(|&i| i < self.primaries.len()).ok_or(Error::INVALID_DEVICE)
    }

    /// Appends a line to the report file, if there is one.
    pub fn report(&self, line: &serde_json::Value) {
        if let Some(file) = &self.report {
            let mut file = file.lock().unwrap_or_else(|e| e.into_inner());
            if let Err(e) = file.write_all(format!("{line}\n").as_bytes()) {
                say(&format!("CUDA_EMU_REPORT: {e}"));
            }
        }
    }
}
