//! What names may be.
//!
//! Names come from outside and end up in paths, on terminals and in addresses, so each kind has its rules here. Tensor
//! names never become paths: they may be nearly anything.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes of a tensor's name.
pub const TENSOR_MAX: usize = 16 << 10;
const RUN_MAX: usize = 512;
const SHORT_MAX: usize = 128;
const PATH_MAX: usize = 4096;

/// The components that a tensor's name can begin with.
const COMPONENTS: [&str; 4] = ["model", "optimizer", "master", "ema"];

/// The component of a tensor that was saved without one.
pub fn component_of(tensor: &str) -> &str {
    let first = tensor.split_once('.').map_or(tensor, |(first, _)| first);
    if COMPONENTS.contains(&first) { first } else { "model" }
}

/// A run: like a relative path, so that runs can be grouped.
pub fn check_run(name: &str) -> Result<()> {
    check_text("run", name, RUN_MAX)?;
    let bad = |why| Err(refuse("run", name, why));
    if name.contains('@') {
        return bad("an @ begins the step of an address");
    }
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return bad("its parts between slashes may not be empty, . or ..");
    }
    Ok(())
}

/// A tag: anything that an address cannot mean otherwise.
pub fn check_tag(name: &str) -> Result<()> {
    check_text("tag", name, SHORT_MAX)?;
    let bad = |why| Err(refuse("tag", name, why));
    if name.contains(['@', '/']) {
        return bad("it may not hold @ or /");
    }
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return bad("a number is a step");
    }
    if matches!(name, "latest" | "best") || name.starts_with("best:") {
        return bad("this word has a meaning in addresses");
    }
    Ok(())
}

/// A metric.
pub fn check_metric(name: &str) -> Result<()> {
    check_text("metric", name, SHORT_MAX)?;
    if name.contains(|c: char| c.is_whitespace() || "@:<>=!".contains(c)) {
        return Err(refuse("metric", name, "it may not hold spaces or any of @ : < > = !"));
    }
    Ok(())
}

/// A component.
pub fn check_component(name: &str) -> Result<()> {
    check_text("component", name, SHORT_MAX)?;
    if name.contains(|c: char| c.is_whitespace() || "@:=/+".contains(c)) {
        return Err(refuse("component", name, "it may not hold spaces or any of @ : = / +"));
    }
    Ok(())
}

/// A tensor.
pub fn check_tensor(name: &str) -> Result<()> {
    if name.len() > TENSOR_MAX {
        return Err(refuse("tensor", name, "its name is too long"));
    }
    if name.chars().any(char::is_control) {
        return Err(refuse("tensor", name, "its name holds control characters"));
    }
    Ok(())
}

/// A file in a checkpoint: a relative path that stays below where it is put.
pub fn check_side_file(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > PATH_MAX {
        return Err(refuse("file", name, "its name is empty or too long"));
    }
    if name.chars().any(char::is_control) || name.contains('\\') {
        return Err(refuse("file", name, "its name holds control characters or backslashes"));
    }
    if name.split('/').any(|part| matches!(part, "" | "." | "..") || part.len() > 255) {
        return Err(refuse("file", name, "not a plain relative path"));
    }
    Ok(())
}

/// The path of a stored file below the folder that it is restored to.
pub fn check_output_name(name: &str) -> Result<PathBuf> {
    check_side_file(name)?;
    let path = Path::new(name);
    if path.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(path.to_path_buf())
    } else {
        Err(refuse("file", name, "not a plain relative path"))
    }
}

/// A name as a terminal may show it: what could move the cursor, or hide, is escaped.
pub fn printable(name: &str) -> Cow<'_, str> {
    if !name.chars().any(is_hidden) {
        return Cow::Borrowed(name);
    }
    let escaped = |c: char| if is_hidden(c) { c.escape_unicode().to_string() } else { c.to_string() };
    Cow::Owned(name.chars().map(escaped).collect())
}

fn check_text(what: &str, name: &str, max: usize) -> Result<()> {
    if name.is_empty() || name.len() > max {
        return Err(refuse(what, name, &format!("a name has 1 to {max} bytes")));
    }
    if name.chars().any(is_hidden) {
        return Err(refuse(what, name, "it holds control or invisible characters"));
    }
    if name.trim() != name || name.starts_with('-') {
        return Err(refuse(what, name, "it may not begin or end with a space, or begin with -"));
    }
    Ok(())
}

/// Control characters, and those that change the direction or the look of others.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}' | '\u{e0000}'..='\u{e007f}')
}

fn refuse(what: &str, name: &str, why: &str) -> Error {
    let short: String = name.chars().take(60).collect();
    let more = if short.len() < name.len() { "…" } else { "" };
    Error::invalid(format!("{what} \"{}{more}\"", printable(&short)), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_people_use_are_fine() {
        for run in ["gpt", "a/b/c", "lr=3e-4", "run 7", "größe", "v1.2_x+y"] {
            check_run(run).unwrap();
        }
        for tag in ["release-1", "before the spike", "v2"] {
            check_tag(tag).unwrap();
        }
        for metric in ["val_loss", "eval/acc", "top-5", "bleu.4"] {
            check_metric(metric).unwrap();
        }
        for file in ["config.json", "sub/tokenizer.model", ".hidden", "a b"] {
            check_side_file(file).unwrap();
        }
    }

    #[test]
    fn names_with_another_meaning_are_refused() {
        for run in
            ["", "a@b", "..", "a/../b", "/a", "a/", "a//b", "a\nb", "a\u{202e}b", " a", "-rf", &"x".repeat(10_000)]
        {
            assert!(check_run(run).is_err(), "{run:?}");
        }
        for tag in ["", "7", "latest", "best", "best:x", "a@b", "a/b", "\u{1b}[31m"] {
            assert!(check_tag(tag).is_err(), "{tag:?}");
        }
        for metric in ["", "a b", "a<b", "a:min", "a=1", "a@b"] {
            assert!(check_metric(metric).is_err(), "{metric:?}");
        }
        for file in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\0b", "a\\..\\b", &"y".repeat(300)] {
            assert!(check_side_file(file).is_err() && check_output_name(file).is_err(), "{file:?}");
        }
        assert!(check_tensor("a\u{7}").is_err() && check_tensor(&"x".repeat(20_000)).is_err());
    }

    #[test]
    fn components_come_from_the_first_part_of_a_name() {
        assert_eq!(component_of("optimizer.exp_avg.w"), "optimizer");
        assert_eq!(component_of("modeling.w"), "model");
        assert_eq!(component_of("ema"), "ema");
        assert_eq!(component_of("layers.0.w"), "model");
    }

    proptest! {
        #[test]
        fn what_is_printed_holds_nothing_hidden(name: String) {
            prop_assert!(!printable(&name).chars().any(is_hidden));
        }

        #[test]
        fn an_output_name_stays_below_its_folder(name: String) {
            if let Ok(path) = check_output_name(&name) {
                prop_assert!(Path::new("/root/x").join(path).starts_with("/root/x"));
            }
        }
    }
}
