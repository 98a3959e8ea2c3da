//! Any body that a provider may send: `cargo fuzz run documents`.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| sunor_archive::fuzzing::document(body));
