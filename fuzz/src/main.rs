//! Runs the target that `TENURE_FUZZ_TARGET` names: under libFuzzer, or once for each file given.
#![cfg_attr(tenure_fuzzing, no_main)]

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

#[cfg(not(tenure_fuzzing))]
fn main() -> std::io::Result<()> {
    let target = chosen();
    for file in std::env::args_os().skip(1) {
        println!("{} {}", target.name, file.display());
        (target.run)(&std::fs::read(file)?);
    }
    Ok(())
}
