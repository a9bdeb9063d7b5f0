//! The house checks itself: floors, migrations, fixtures, headers.
#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The floors of `src/`, the lowest first. A module uses floors below its own, and beside it only what the floor allows.
const FLOORS: &[Floor] = &[
    Floor { name: "ground", modules: &["env", "error", "id", "monitor", "parallel", "tensor", "wire"], shared: true },
    Floor { name: "bytes", modules: &["chunk", "codec"], shared: false },
    Floor { name: "formats", modules: &["format"], shared: false },
    Floor { name: "files", modules: &["disk"], shared: false },
    Floor { name: "places", modules: &["backend", "catalog"], shared: false },
    Floor { name: "store", modules: &["store"], shared: false },
    Floor { name: "journeys", modules: &["gc", "restore", "retain", "save", "verify"], shared: false },
    Floor {
        name: "errands",
        modules: &["doctor", "encodings", "export", "history", "measure", "repair", "stats"],
        shared: false,
    },
];

/// What a module uses although its floor does not allow it, and why that is so. One that is no longer needed goes.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("gc", "retain", "a collection carries out the plan that retention makes; retention is pure and knows nobody")];

struct Floor {
    name: &'static str,
    modules: &'static [&'static str],
    /// Its modules may use each other.
    shared: bool,
}

#[test]
fn a_floor_uses_only_floors_below_it() {
    let mut wrong = BTreeSet::new();
    let mut excused = BTreeSet::new();
    for (path, text) in sources() {
        let Some(user) = module_of(&path) else { continue };
        for used in modules_used(&path, &text) {
            if used == user || allowed(&user, &used) {
                continue;
            }
            match EXCEPTIONS.iter().find(|(from, to, _)| *from == user && *to == used) {
                Some(exception) => drop(excused.insert(*exception)),
                None => drop(wrong.insert(format!(
                    "{}: {user} ({}) uses {used} ({})",
                    path.display(),
                    floor(&user).1.name,
                    floor(&used).1.name
                ))),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let idle: Vec<_> = EXCEPTIONS.iter().filter(|exception| !excused.contains(*exception)).collect();
    assert!(idle.is_empty(), "exceptions that nothing needs any more: {idle:#?}");
}

#[test]
fn every_module_has_its_floor() {
    let there: BTreeSet<String> = sources().keys().filter_map(|path| module_of(path)).collect();
    let listed: BTreeSet<String> =
        FLOORS.iter().flat_map(|floor| floor.modules).map(|module| module.to_string()).collect();
    assert_eq!(there, listed, "left: modules of src/; right: the table of floors");
}

#[test]
fn the_floor_check_sees_what_it_should() {
    let seen = |path: &str, text: &str| modules_used(Path::new(path), text).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(seen("codec/raw.rs", "use crate::error::Result;\nlet a = crate::wire::x();"), "error wire");
    assert_eq!(seen("codec/raw.rs", "use crate::{\n    id::{ChunkId, store},\n    save::{self},\n};"), "id save");
    assert_eq!(seen("codec/raw.rs", "crate::Error; crate::Store"), "error store");
    assert_eq!(seen("codec/raw.rs", "//! [`crate::save`]\nlet a = 1; // crate::gc\n/// crate::gc"), "");
    assert_eq!(seen("codec/raw.rs", "use super::store;"), "");
    assert_eq!(seen("codec/mod.rs", "use super::store;"), "store");
    assert_eq!(seen("verify.rs", "use super::save::Manifest;"), "save");
    assert_eq!(seen("verify.rs", "pub(in crate::store) fn f()"), "store");
}

#[test]
fn nobody_climbs_two_floors_by_super() {
    let climbs = |text: &str| code(text).contains(concat!("super::", "super"));
    let found: Vec<_> = sources().into_iter().filter(|(_, text)| climbs(text)).map(|(path, _)| path).collect();
    assert!(found.is_empty(), "write crate:: where the floor check can see it: {found:?}");
}

#[test]
fn migrations_are_numbered_without_gaps_and_all_run() {
    let names = names_in(&root().join("migrations"));
    let runner = std::fs::read_to_string(root().join("src/catalog/migrate.rs")).unwrap();
    let mut before = 0;
    for (n, name) in names.iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", n + 1)), "migrations/{name} should have number {:04}", n + 1);
        let at = runner.find(&format!("migrations/{name}\"")).unwrap_or_else(|| panic!("migrations/{name} is not run"));
        assert!(at > before, "migrations/{name} runs out of order");
        before = at;
    }
    assert!(!names.is_empty());
}

#[test]
fn every_fixture_version_is_opened_by_a_test() {
    let fixtures = root().join("tests/fixtures");
    if !fixtures.is_dir() {
        return;
    }
    let tests: String = files_under(&root().join("tests"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tidy.rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for version in names_in(&fixtures).into_iter().filter(|name| fixtures.join(name).is_dir()) {
        let ways = [format!("fixtures/{version}"), format!("\"{version}\""), format!("\"{version}/")];
        assert!(ways.iter().any(|way| tests.contains(way)), "no test opens tests/fixtures/{version}");
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| !path.ends_with("tests.rs") && !text.starts_with("//! "))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "no //! header: {silent:?}");
}

/// Where packages come from is the machine's business. The lock file names the one registry that everybody has.
#[test]
fn no_file_names_a_registry() {
    let words = [
        concat!("index.", "crates.io"),
        concat!("static.", "crates.io"),
        concat!("pypi", ".org"),
        concat!("python", "hosted"),
        concat!("index", "-url"),
        concat!("replace", "-with"),
        concat!("[registr", "ies"),
    ];
    for path in files_under(&root()) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue }; // not text
        for word in words {
            assert!(!text.contains(word), "{} says {word}", path.display());
        }
    }
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let sources: BTreeSet<&str> = lock.lines().filter(|line| line.starts_with("source = ")).collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files of `src/` by their path in it.
fn sources() -> BTreeMap<PathBuf, String> {
    let src = root().join("src");
    let rust = files_under(&src).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    rust.map(|path| (path.strip_prefix(&src).unwrap().to_path_buf(), std::fs::read_to_string(&path).unwrap())).collect()
}

/// The files below a folder; not the repository's own, and not what was built or is kept beside it.
fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for name in names_in(folder) {
        let path = folder.join(&name);
        let skipped =
            name.starts_with("target") || (name.starts_with('.') && name != ".ci") || name == "treering-store";
        if skipped || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            files.extend(files_under(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The module of the library that a file belongs to. The crate's page and the binary stand above all floors.
fn module_of(path: &Path) -> Option<String> {
    let first = path.iter().next()?.to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib" && name != "bin").then(|| name.to_string())
}

fn floor(module: &str) -> (usize, &'static Floor) {
    let found = FLOORS.iter().enumerate().find(|(_, floor)| floor.modules.contains(&module));
    found.unwrap_or_else(|| panic!("{module} has no floor: put it into the table"))
}

fn allowed(user: &str, used: &str) -> bool {
    let ((high, floor), (low, _)) = (floor(user), floor(used));
    low < high || low == high && floor.shared
}

/// The modules at the top of the crate that a file names, by `crate::` or by a `super::` that leads there.
fn modules_used(path: &Path, text: &str) -> BTreeSet<String> {
    let code = code(text);
    let mut used = names_after(&code, "crate::");
    if path.components().count() == 1 || path.components().count() == 2 && path.ends_with("mod.rs") {
        // `super` is the crate here, and the file itself in its inline tests.
        let above = names_after(&code, "super::");
        used.extend(above.into_iter().filter(|name| FLOORS.iter().any(|floor| floor.modules.contains(&name.as_str()))));
    }
    used.into_iter().map(|name| by_reexport(&name)).collect()
}

/// What stands behind a prefix: one name, or the names that begin the branches of a group.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let inside_a_word = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            _ if inside_a_word => {}
            None => names.extend(word(rest)),
            Some(group) => names.extend(branches(group)),
        }
    }
    names
}

fn branches(group: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut depth, mut begins) = (0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                names.extend(word(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn word(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_string())
}

/// Names that the crate's page passes on.
fn by_reexport(name: &str) -> String {
    match name {
        "Error" | "ErrorKind" | "Result" => "error",
        "Store" => "store",
        other => other,
    }
    .to_string()
}

/// A file without its comments. A `//` in a string ends the line too early, which hides at most the rest of that line.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}
