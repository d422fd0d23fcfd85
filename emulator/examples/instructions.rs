//! Prints `INSTRUCTIONS.md`, the document of the instruction table.

fn main() {
    print!("{}", cuda_emulator::ptx::forms::document());
}
