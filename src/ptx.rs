//! The compiled kernels: what `build.rs` made of `kernels/*.cu`, embedded.
//!
//! It knows names and text, no driver. Empty if nvcc was not found when this was built.

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// Why there are no kernels, for an error message.
pub const MISSING: &str =
    "this build has no CUDA kernels, because nvcc was not found: run `make cuda`, then build again";

/// The module that holds an entry.
pub fn module_of(entry: &str) -> Option<&'static Module> {
    MODULES.iter().find(|m| m.entries.contains(&entry))
}

/// What the assembler made of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Of a thread.
    pub registers: u32,
    /// Static shared memory in bytes.
    pub shared: u32,
    /// Bytes of a thread's stack frame.
    pub stack: u32,
    /// Bytes spilled, stored and loaded.
    pub spills: u32,
}

/// What `ptxas -v` says of an entry; none if it does not speak of it.
pub fn resources(said: &str, entry: &str) -> Option<Resources> {
    let mut lines = said.lines().skip_while(|l| !l.contains(&format!("Compiling entry function '{entry}'"))).skip(1);
    let about: Vec<&str> = lines.by_ref().take_while(|l| !l.contains("Compiling entry function")).collect();
    let number = |unit: &str| {
        let line = about.iter().find(|l| l.contains(unit))?;
        line.split(unit).next()?.trim().rsplit([' ', ',']).next()?.parse::<u32>().ok()
    };
    Some(Resources {
        registers: number("registers")?,
        // Not mentioned where there is none.
        shared: number("bytes smem").unwrap_or(0),
        stack: number("bytes stack frame")?,
        spills: number("bytes spill stores")? + number("bytes spill loads")?,
    })
}

/// One `.cu` file as PTX.
#[derive(Debug)]
pub struct Module {
    /// The file's name without its ending.
    pub name: &'static str,
    pub ptx: &'static str,
    /// Its `extern "C"` kernels.
    pub entries: &'static [&'static str],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ptxas_says_is_understood() {
        let said = "ptxas info    : Compiling entry function 'a' for 'sm_80'\nptxas info    : Function properties for a\n    0 bytes stack \
                    frame, 8 bytes spill stores, 4 bytes spill loads\nptxas info    : Used 52 registers, used 1 barriers, 16656 bytes \
                    smem\nptxas info    : Compiling entry function 'ab' for 'sm_80'\n    16 bytes stack frame, 0 bytes spill stores, 0 \
                    bytes spill loads\nptxas info    : Used 255 registers";
        assert_eq!(resources(said, "a"), Some(Resources { registers: 52, shared: 16656, stack: 0, spills: 12 }));
        assert_eq!(resources(said, "ab"), Some(Resources { registers: 255, shared: 0, stack: 16, spills: 0 }));
        assert_eq!(resources(said, "b"), None);
    }
}
