//! Runs the target that `TENURE_FUZZ_TARGET` names: under libFuzzer, or once for each file given.
#![cfg_attr(tenure_fuzzing, no_main)]

#[cfg(tenure_fuzzing)]
use tenure_fuzz::parts;
use tenure_fuzz::target::{self, TARGETS, Target};

fn chosen() -> Target {
    let name = std::env::var("TENURE_FUZZ_TARGET").unwrap_or_default();
    target::named(&name).unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        panic!("set TENURE_FUZZ_TARGET to one of {}", names.join(", "));
    })
}

#[cfg(tenure_fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static CHOSEN: std::sync::OnceLock<Target> = std::sync::OnceLock::new();
    (CHOSEN.get_or_init(chosen).run)(input);
});

// Two of three changes keep what stands around the part that they change.
#[cfg(tenure_fuzzing)]
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = match seed % 3 {
        0 => parts::change_a_text(&data[..size], seed / 3, &mut change),
        1 => parts::change_a_line(&data[..size], seed / 3, &mut change),
        _ => None,
    };
    if let Some(changed) = changed.filter(|changed| changed.len() <= max_size) {
        data[..changed.len()].copy_from_slice(&changed);
        return changed.len();
    }
    libfuzzer_sys::fuzzer_mutate(data, size, max_size)
});

/// The text as libFuzzer changes it.
#[cfg(tenure_fuzzing)]
fn change(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let most = bytes.len() + 64;
    bytes.resize(most, 0);
    let size = libfuzzer_sys::fuzzer_mutate(&mut bytes, text.len(), most);
    String::from_utf8_lossy(&bytes[..size]).into_owned()
}

#[cfg(not(tenure_fuzzing))]
fn main() -> std::io::Result<()> {
    let target = chosen();
    for file in std::env::args_os().skip(1) {
        println!("{} {}", target.name, file.display());
        (target.run)(&std::fs::read(file)?);
    }
    Ok(())
}
