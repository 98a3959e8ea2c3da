//! Fuzzes the parsing of task lists. Run with `cargo fuzz run lists`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sunor_archive::fuzzing::fuzz_list(bytes));
