//! The `osprey` binary: everything is in [`osprey::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    osprey::cli::main()
}
