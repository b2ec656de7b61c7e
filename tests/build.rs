//! Compiles the libraries that tests preload: of `tests/lost_writes`, and of `tests/clocks.rs`. Where there is no C compiler, the
//! tests that need them are ignored, and counted as such.

use std::{env, path::Path, process::Command};

/// Each with the variable that names it to the tests.
const LIBRARIES: [(&str, &str); 2] =
    [("tests/lost_writes/lost_writes.c", "LOST_WRITES_LIBRARY"), ("src/wall_clock.c", "WALL_CLOCK_LIBRARY")];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_cc)");
    println!("cargo::rerun-if-env-changed=PATH");
    for (source, _) in LIBRARIES {
        println!("cargo::rerun-if-changed={source}");
    }
    if Command::new("cc").arg("--version").output().is_err() {
        println!("cargo::warning=there is no cc: the tests of lost writes and of clocks are ignored");
        return;
    }
    for (source, variable) in LIBRARIES {
        let library = Path::new(&env::var_os("OUT_DIR").expect("cargo names a folder")).join(format!("{variable}.so"));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&library).arg(source);
        let ended = cc.args(["-ldl", "-lpthread"]).status().expect("cc was there a moment ago");
        assert!(ended.success(), "{source} can't be compiled: {ended}");
        println!("cargo::rustc-env={variable}={}", library.display());
    }
    println!("cargo::rustc-cfg=has_cc");
}
