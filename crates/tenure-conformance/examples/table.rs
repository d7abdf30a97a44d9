//! Prints which case finds which lie: `cargo run -p tenure-conformance --example table`.

use std::process::ExitCode;

use tenure_conformance::lying;

fn main() -> ExitCode {
    // Some lies are about other processes; this program is those too.
    if lying::contestant() {
        return ExitCode::SUCCESS;
    }
    // One lie is a panic, which is nothing to be told of.
    std::panic::set_hook(Box::new(|_| {}));
    let matrix = lying::judge();
    println!("{matrix}");
    if matrix.blind_cases().is_empty() && matrix.unseen_lies().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
