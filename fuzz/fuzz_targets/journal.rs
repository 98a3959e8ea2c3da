//! Any bytes where a journal segment is due: `cargo fuzz run journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sunor_archive::fuzzing::journal(bytes));
