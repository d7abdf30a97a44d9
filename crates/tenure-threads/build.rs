//! The core's sources are built with shuttle's locks and atomics here.

fn main() {
    println!("cargo::rustc-cfg=tenure_shuttle");
    println!("cargo::rerun-if-changed=build.rs");
}
