//! Fuzzes the reader of journal segments. Run with `cargo fuzz run journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sunor_archive::fuzzing::fuzz_journal(bytes));
