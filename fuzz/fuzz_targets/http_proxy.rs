#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| thirl_fuzz::bodies::http_proxy(data));
