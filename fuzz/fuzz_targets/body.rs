//! A request's body, from bytes to messages and the files in their `data:` URLs. What is refused must be a 4xx.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| osprey::server::read_body(bytes));
