//! Compiles the library that is preloaded by `tests/lost_writes`. Where there is no C compiler, the tests that need it are
//! ignored, and counted as such.

use std::{env, path::Path, process::Command};

const SOURCE: &str = "tests/lost_writes/lost_writes.c";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_cc)");
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=PATH");
    if Command::new("cc").arg("--version").output().is_err() {
        println!("cargo::warning=there is no cc: the tests of lost writes are ignored");
        return;
    }
    let library = Path::new(&env::var_os("OUT_DIR").expect("cargo names a folder")).join("lost_writes.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&library).arg(SOURCE);
    let ended = cc.args(["-ldl", "-lpthread"]).status().expect("cc was there a moment ago");
    assert!(ended.success(), "{SOURCE} can't be compiled: {ended}");
    println!("cargo::rustc-cfg=has_cc");
    println!("cargo::rustc-env=LOST_WRITES_LIBRARY={}", library.display());
}
