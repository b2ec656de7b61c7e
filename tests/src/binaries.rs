//! The programs that the tests run, built as they are now.
//!
//! Always true: they are built once a test process, by cargo itself, with the profile and in the target folder of the
//! tests: RocksDB is compiled once for all.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

use unanimous_coordinator::journal::rocks;

/// With points at which tests kill them; separate programs, so that they can't be taken for the real ones.
const WITH_FAILPOINTS: [&str; 2] = ["unanimous-failpoints", "bank-failpoints"];

/// The program of this name, up to date.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    BUILT.call_once(build);
    let path = folder().join(name);
    assert!(path.exists(), "{} is not there although everything was built", path.display());
    path
}

/// Where cargo leaves programs of this profile: the test itself is in the folder `deps` in there.
fn folder() -> PathBuf {
    let test = env::current_exe().expect("a test knows where it is");
    test.ancestors().nth(2).expect("a test is in a folder of a target folder").to_owned()
}

fn build() {
    let folder = folder();
    let profile = match folder.file_name().and_then(|name| name.to_str()).expect("a profile has a name") {
        "debug" => "dev",
        other => other,
    };
    let target = folder.parent().expect("a profile's folder is in a target folder");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is in a workspace");
    let cargo = |further: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(workspace).env("CARGO_TARGET_DIR", target);
        cargo.args(["build", "--quiet", "--workspace", "--profile", profile]).args(further);
        // What cargo says of this package, and none of what is built.
        for (name, _) in
            env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_BIN_"))
        {
            cargo.env_remove(name);
        }
        let ended = cargo.status().expect("cargo runs");
        assert!(ended.success(), "the programs under test could not be built: {ended}");
    };
    cargo(&["--bins"]);
    cargo(&[
        "--features",
        "unanimous-coordinator/failpoints,unanimous-examples/failpoints",
        "--bin",
        WITH_FAILPOINTS[0],
        "--bin",
        WITH_FAILPOINTS[1],
    ]);
}

/// A copy of a data folder, which stands for the original from now on, as a snapshot of the file system would: the
/// coordinator can't recognise it as a copy.
pub fn clone_folder(from: &Path, to: &Path) {
    copy_folder(from, to);
    stand_for_the_original(to);
}

/// Makes the files of a data folder, whoever made them, the ones that are recorded in it. Another folder stays as it is.
pub fn stand_for_the_original(folder: &Path) {
    if folder.join("log/FORMAT").exists() {
        rocks::adopt(folder).expect("the folder holds a log whose place, if there is one, can be read");
    }
}

/// A copy of a folder, with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder can be read") {
        let entry = entry.expect("a folder can be read");
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().expect("an entry has a type").is_dir() {
            copy_folder(&path, &copy);
        } else {
            fs::copy(&path, &copy).expect("a file can be copied");
        }
    }
}
