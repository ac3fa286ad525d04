//! Compares guard and assembly with the reference parser, for any input in any chunks.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>, bool)| {
    let (chunks, bytes, compression) = input;
    chinwag::websocket::reference::check(&bytes, &chunks, compression);
});
