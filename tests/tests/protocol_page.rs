//! The protocol's page says of each rule which tests prove it: each has one, and each that is named is there.
//!
//! A rule is a paragraph that begins with its number in bold. It ends with its tests, in italics, each as `file::function`;
//! the short names of files are in a table at the end. What the software doesn't do yet ends with `(not served yet)`
//! instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const NOT_SERVED: &str = "(not served yet)";

/// A rule, as it stands on the page.
#[derive(Debug)]
struct Rule {
    number: String,
    /// All of its paragraph, in one line.
    text: String,
}

fn rules(page: &str) -> Vec<Rule> {
    let paragraphs = page.split("\n\n").map(str::trim);
    let rule = |text: &str| {
        let (number, _) = text.strip_prefix("**P-")?.split_once("**")?;
        Some(Rule { number: number.to_owned(), text: text.split_whitespace().collect::<Vec<_>>().join(" ") })
    };
    paragraphs.filter_map(rule).collect()
}

impl Rule {
    /// Its tests, as `(file's short name, function)`.
    fn tests(&self) -> Vec<(&str, &str)> {
        let Some((_, tests)) = self.text.split_once("*Tests:") else { return vec![] };
        tests.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect()
    }
}

/// The short names of files.
fn files(page: &str) -> BTreeMap<&str, &str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix("` |")?.split_once("` | `"));
    rows.filter(|(_, path)| Path::new(path).extension().is_some_and(|of| of == "rs")).collect()
}

/// The names of the test functions in a source text.
fn functions(source: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, function)) = line.split_once("fn ")
            && !line.starts_with("//")
        {
            if is_test {
                found.extend(function.split('(').next());
            }
            is_test = false;
        }
    }
    found
}

/// All that is wrong with the page; `read` gives the text of a file.
fn faults(page: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let (rules, files) = (rules(page), files(page));
    let mut faults = vec![];
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    for (name, path) in &files {
        match read(path) {
            Some(source) => {
                sources.insert(name, source);
            }
            None => faults.push(format!("`{name}`: there is no file {path}")),
        }
    }
    let tests: BTreeMap<&str, BTreeSet<&str>> =
        sources.iter().map(|(name, source)| (*name, functions(source))).collect();
    let mut named = BTreeSet::new();
    let mut last: BTreeMap<u32, u32> = BTreeMap::new();
    for rule in &rules {
        let number = &rule.number;
        let parts = number.split_once('.').and_then(|(section, n)| Some((section.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((section, n)) if n == last.get(&section).copied().unwrap_or(0) + 1 => {
                last.insert(section, n);
            }
            Some(_) | None => faults.push(format!("P-{number} doesn't follow the rule before it")),
        }
        let of_rule = rule.tests();
        let is_served = !rule.text.ends_with(NOT_SERVED);
        if of_rule.is_empty() == is_served {
            let wrong = if is_served { "has no test" } else { "isn't served yet, and has tests" };
            faults.push(format!("P-{number} {wrong}"));
        }
        for (file, function) in of_rule {
            named.insert(file);
            if !tests.get(file).is_some_and(|there| there.contains(function)) {
                faults.push(format!("P-{number}: there is no test `{file}::{function}`"));
            }
        }
    }
    let mentioned = page.match_indices("(P-").filter_map(|(at, _)| page[at + 3..].split([')', ',', ' ']).next());
    let unknown = mentioned.filter(|number| number.contains('.') && !rules.iter().any(|rule| rule.number == **number));
    faults.extend(unknown.map(|number| format!("P-{number} is referred to, and isn't there")));
    let unused = files.keys().filter(|name| !named.contains(*name));
    faults.extend(unused.map(|name| format!("`{name}`: no rule names a test of this file")));
    faults
}

#[test]
fn every_rule_has_a_test_and_every_test_that_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is in a workspace");
    let page = fs::read_to_string(root.join("participant-sdk/PROTOCOL.md")).expect("the page is there");
    let faults = faults(&page, |path| fs::read_to_string(root.join(path)).ok());
    assert!(faults.is_empty(), "participant-sdk/PROTOCOL.md:\n{}", faults.join("\n"));
    let (all, sections) = (rules(&page), page.lines().filter(|line| line.starts_with("## ")).count());
    assert!(all.len() > 80 && sections > 8, "only {} rules were found", all.len());
    let unserved = all.iter().filter(|rule| rule.text.ends_with(NOT_SERVED)).count();
    println!("{} rules, {unserved} of them not served yet", all.len());
}

const SOUND: &str = "
**P-1.1** A rule (P-2.1).
*Tests: `a::one`, `a::two`.*

**P-2.1** Another. (not served yet)

| `a` | `a.rs` |
";

fn source(path: &str) -> Option<String> {
    (path == "a.rs").then(|| "#[test]\nfn one() {}\n#[tokio::test]\nasync fn two() {}\nfn helper() {}".to_owned())
}

#[test]
fn a_page_that_is_sound_has_no_fault() {
    assert_eq!(faults(SOUND, source), Vec::<String>::new());
}

#[test]
fn each_kind_of_fault_is_found() {
    for (from, to, fault) in [
        ("\n*Tests: `a::one`, `a::two`.*", "", "P-1.1 has no test"),
        ("a::two", "a::three", "P-1.1: there is no test `a::three`"),
        ("a::two", "a::helper", "P-1.1: there is no test `a::helper`"),
        ("a::two", "b::two", "P-1.1: there is no test `b::two`"),
        (" (not served yet)", "", "P-2.1 has no test"),
        ("Another.", "Another.\n*Tests: `a::one`.*", "P-2.1 isn't served yet, and has tests"),
        ("P-1.1", "P-1.2", "P-1.2 doesn't follow the rule before it"),
        ("(P-2.1)", "(P-2.9)", "P-2.9 is referred to, and isn't there"),
        ("| `a` | `a.rs` |", "| `a` | `a.rs` |\n| `c` | `c.rs` |", "`c`: there is no file c.rs"),
        ("| `a` | `a.rs` |", "| `a` | `a.rs` |\n| `d` | `a.rs` |", "`d`: no rule names a test of this file"),
    ] {
        let page = SOUND.replacen(from, to, 1);
        assert_ne!(page, SOUND);
        let found = faults(&page, source);
        assert!(found.iter().any(|found| found == fault), "{fault}: {found:?}");
    }
}
