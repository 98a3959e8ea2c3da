//! Fuzzes the parsing of response bodies. Run with `cargo fuzz run documents`.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| sunor_archive::fuzzing::fuzz_response(body));
