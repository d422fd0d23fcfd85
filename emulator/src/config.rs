//! What can be switched: the devices, the checks, the seed, the threads, the patience.

use crate::device::{A100, DEVICES, Device, H100, RTX_4090};

/// A check that a launch makes; all are on by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Accesses outside every allocation, to freed memory, or not aligned to their size. Off: such loads give 0, such
    /// stores are dropped.
    Memory,
    /// Registers, shared and global bytes that are read before anything was written there.
    Uninitialised,
    /// Conflicting shared-memory accesses that no barrier orders, missing proxy fences, registers of a `wgmma` that are
    /// used while it is under way; writes to locations read through `ld.global.nc`.
    Races,
    /// Barriers in divergent code, and lanes missing from a `.sync`.
    Barriers,
    /// The declared operands of a launch (`cuEmuOperands`).
    Operands,
}

/// The names that `Config::from_text` takes, in the order of [`Checks`]' bits.
pub const CHECKS: [(&str, Check); 5] = [
    ("memory", Check::Memory),
    ("uninitialised", Check::Uninitialised),
    ("races", Check::Races),
    ("barriers", Check::Barriers),
    ("operands", Check::Operands),
];

/// A set of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks(u8);

impl Checks {
    pub const ALL: Checks = Checks(u8::MAX);
    pub const NONE: Checks = Checks(0);

    pub fn has(self, check: Check) -> bool {
        self.0 >> check as u8 & 1 == 1
    }

    pub fn without(self, check: Check) -> Checks {
        Checks(self.0 & !(1 << check as u8))
    }

    pub fn with(self, check: Check) -> Checks {
        Checks(self.0 | 1 << check as u8)
    }
}

/// More host threads are not started, whatever is asked for.
const MOST_THREADS: usize = 1024;

/// How the emulator behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The devices that a program sees, in order.
    pub devices: Vec<Device>,
    pub checks: Checks,
    /// Shuffles the order in which the warps of a block run between barriers.
    pub seed: u64,
    /// Host threads that run blocks.
    pub threads: usize,
    /// Warp instructions that a launch may run without changing any memory before it counts as hung.
    pub patience: u64,
}

impl Default for Config {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Config { devices: vec![A100, H100, RTX_4090], checks: Checks::ALL, seed: 1, threads, patience: 1 << 28 }
    }
}

impl Config {
    /// The configuration that two texts ask for, each None for what is usual.
    ///
    /// `devices` lists names of [`DEVICES`] (`H100,A100`; a name may come twice). `checks` lists words from left to
    /// right: `all`, `none`, a check to switch on, `-` and a check to switch off, `seed=7`, `threads=2`, `patience=1000000`.
    ///
    /// # Errors
    /// Says which word is wrong and what may stand there.
    pub fn from_text(devices: Option<&str>, checks: Option<&str>) -> Result<Config, String> {
        let mut config = Config::default();
        if let Some(text) = devices {
            config.devices = words(text).map(device).collect::<Result<_, _>>()?;
        }
        for word in checks.into_iter().flat_map(words) {
            config.switch(word)?;
        }
        Ok(config)
    }

    fn switch(&mut self, word: &str) -> Result<(), String> {
        match word.split_once('=') {
            Some(("seed", value)) => self.seed = number(word, value)?,
            Some(("threads", value)) => self.threads = number::<usize>(word, value)?.clamp(1, MOST_THREADS),
            Some(("patience", value)) => self.patience = number(word, value)?,
            Some(_) => return Err(format!("`{word}`: `seed=N`, `threads=N` and `patience=N` are what takes a value")),
            None if word == "all" => self.checks = Checks::ALL,
            None if word == "none" => self.checks = Checks::NONE,
            None => match word.strip_prefix('-') {
                Some(name) => self.checks = self.checks.without(check(name)?),
                None => self.checks = self.checks.with(check(word)?),
            },
        }
        Ok(())
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn device(name: &str) -> Result<Device, String> {
    let known = || DEVICES.map(|(known, _)| known).join(", ");
    let found = DEVICES.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, device)| device).ok_or_else(|| format!("no device `{name}`: there are {}", known()))
}

fn check(name: &str) -> Result<Check, String> {
    let known = || CHECKS.map(|(known, _)| known).join(", ");
    let found = CHECKS.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, check)| check).ok_or_else(|| format!("no check `{name}`: there are all, none, {}", known()))
}

fn number<T: std::str::FromStr>(word: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`{word}`: `{value}` is no whole number that fits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_come_in_the_order_of_the_list() {
        let config = Config::from_text(Some("H100, A100,H100"), None).unwrap();
        assert_eq!(config.devices, [H100, A100, H100]);
        assert_eq!(Config::from_text(Some(""), None).unwrap().devices, []);
        let error = Config::from_text(Some("H200"), None).unwrap_err();
        assert_eq!(error, "no device `H200`: there are A100, H100, RTX_4090");
    }

    #[test]
    fn checks_are_switched_from_left_to_right() {
        let checks = |text| Config::from_text(None, Some(text)).unwrap().checks;
        let on = |text| CHECKS.map(|(_, check)| checks(text).has(check));
        assert_eq!(on("all"), [true; 5]);
        assert_eq!(on("none"), [false; 5]);
        assert_eq!(on("-races"), [true, true, false, true, true]);
        assert_eq!(on("none,memory,barriers"), [true, false, false, true, false]);
        assert_eq!(on("memory,none"), [false; 5]);
    }

    #[test]
    fn seed_threads_and_patience_take_numbers() {
        let config = Config::from_text(None, Some("seed=7,threads=2,patience=5000")).unwrap();
        assert_eq!((config.seed, config.threads, config.patience), (7, 2, 5000));
        for (text, part) in
            [("seed=x", "`x`"), ("sed=1", "seed=N"), ("race", "no check `race`"), ("-x", "no check `x`")]
        {
            let error = Config::from_text(None, Some(text)).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
