#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| imdsfw::fuzzing::audit_tail(bytes));
