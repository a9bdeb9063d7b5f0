//! What names may be.
//!
//! Runs, tags, metrics and components are typed by people, parsed out of addresses and printed on terminals: they hold
//! nothing that an address uses and nothing that cannot be seen. Tensor names and side files come from elsewhere and
//! are never changed: they are refused only where they would be dangerous. This module knows words, not files.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// The most bytes of a run's name.
pub const RUN_BYTES_MAX: usize = 512;
/// The most bytes of a tag.
pub const TAG_BYTES_MAX: usize = 128;
/// The most bytes of a metric's name.
pub const METRIC_BYTES_MAX: usize = 128;
/// The most bytes of a component's name.
pub const COMPONENT_BYTES_MAX: usize = 128;
/// The most bytes of a tensor's name.
pub const TENSOR_BYTES_MAX: usize = 16 << 10;
/// The most bytes of a side file's path.
pub const SIDE_FILE_BYTES_MAX: usize = 4096;

/// The component of a tensor that names no other.
pub const DEFAULT_COMPONENT: &str = "model";

/// The key of the metadata in a safetensors header: no tensor can be called so.
pub(crate) const METADATA_KEY: &str = "__metadata__";

type Verdict = Result<(), Cow<'static, str>>;

/// A run: segments between slashes, without an `@`.
pub fn check_run(name: &str) -> Result<()> {
    let verdict = word(name, RUN_BYTES_MAX, "@").and_then(|()| segments(name));
    verdict.map_err(|why| refused("run", name, why))
}

/// A tag: no number, and none of the words that an address uses.
pub fn check_tag(name: &str) -> Result<()> {
    let verdict = word(name, TAG_BYTES_MAX, "@/").and_then(|()| match name {
        "latest" | "best" => Err("this word has a meaning in addresses".into()),
        _ if name.starts_with("best:") => Err("addresses use best: for metrics".into()),
        _ if name.parse::<f64>().is_ok() || name.chars().all(char::is_numeric) => Err("numbers are steps".into()),
        _ => Ok(()),
    });
    verdict.map_err(|why| refused("tag", name, why))
}

/// A metric: one word without the characters of addresses and comparisons.
pub fn check_metric(name: &str) -> Result<()> {
    let verdict = word(name, METRIC_BYTES_MAX, ":@<>=!").and_then(|()| match name.contains(char::is_whitespace) {
        true => Err("white space is not allowed".into()),
        false => Ok(()),
    });
    verdict.map_err(|why| refused("metric", name, why))
}

/// A component, as given with a file: no path, and nothing that separates it from what is next to it.
pub fn check_component(name: &str) -> Result<()> {
    let verdict = word(name, COMPONENT_BYTES_MAX, "/@:=,").and_then(|()| segments(name));
    verdict.map_err(|why| refused("component", name, why))
}

/// A tensor: any text without control characters. An empty one is a name too.
pub fn check_tensor(name: &str) -> Result<()> {
    tensor_verdict(name).map_err(|why| refused("tensor", name, why))
}

/// A side file: a relative path that stays below its root.
pub fn check_side_file(path: &str) -> Result<()> {
    let verdict = bounded(path, SIDE_FILE_BYTES_MAX).and_then(|()| no_control(path)).and_then(|()| segments(path));
    verdict.map_err(|why| refused("file", path, why))
}

/// The path below a root at which a side file of this name is written: never outside of that root, unless a folder on
/// the way is a link.
pub fn check_output_name(name: &str) -> Result<PathBuf> {
    check_side_file(name)?;
    let path = Path::new(name);
    // What was checked as text is checked again as the operating system sees it.
    match path.components().all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(path.to_path_buf()),
        false => Err(refused("file", name, "not a relative path".into())),
    }
}

/// The component of a tensor that was saved without one: the first segment of its name if that is a usual component.
pub fn component_of(tensor_name: &str) -> &str {
    match tensor_name.split('.').next() {
        Some(first @ ("model" | "optimizer" | "master" | "ema")) => first,
        _ => DEFAULT_COMPONENT,
    }
}

/// Text from outside as a message or a table may show it: what would move the cursor, change colours or hide is spelled
/// out.
pub fn printable(text: &str) -> Cow<'_, str> {
    let unsafe_to_print = |c: char| c.is_control() || is_invisible(c);
    if !text.contains(unsafe_to_print) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match unsafe_to_print(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A name in a message: [`printable`] and short.
pub(crate) fn brief(name: &str) -> String {
    shorten(name, 100)
}

/// The message of a parser, which may quote its input: [`printable`] and one line, with room for a [`brief`] name.
pub(crate) fn brief_message(message: &str) -> String {
    shorten(message, 300)
}

fn shorten(text: &str, chars_max: usize) -> String {
    // Each character becomes at least one: only so many can be shown.
    let head = text.char_indices().nth(chars_max).map_or(text, |(end, _)| &text[..end]);
    let shown = printable(head);
    match shown.char_indices().nth(chars_max) {
        None if head.len() == text.len() => shown.into_owned(),
        None => format!("{shown}…"),
        Some((end, _)) => format!("{}…", &shown[..end]),
    }
}

/// Why a tensor cannot be called so.
pub(crate) fn tensor_verdict(name: &str) -> Verdict {
    match name {
        _ if name.len() > TENSOR_BYTES_MAX => Err(too_long(TENSOR_BYTES_MAX)),
        METADATA_KEY => Err("the safetensors format keeps this name for itself".into()),
        _ => no_control(name),
    }
}

/// What all names that people type have in common.
fn word(name: &str, bytes_max: usize, forbidden: &str) -> Verdict {
    bounded(name, bytes_max)?;
    no_control(name)?;
    if let Some(c) = name.chars().find(|&c| is_invisible(c)) {
        return Err(format!("the invisible character {} is not allowed", c.escape_unicode()).into());
    }
    if let Some(c) = name.chars().find(|&c| forbidden.contains(c)) {
        return Err(format!("'{c}' is not allowed").into());
    }
    if name.trim() != name {
        return Err("white space at an end is not allowed".into());
    }
    Ok(())
}

fn bounded(name: &str, bytes_max: usize) -> Verdict {
    match name.len() {
        0 => Err("empty".into()),
        len if len > bytes_max => Err(too_long(bytes_max)),
        _ => Ok(()),
    }
}

fn too_long(bytes_max: usize) -> Cow<'static, str> {
    format!("longer than {bytes_max} bytes").into()
}

fn no_control(name: &str) -> Verdict {
    match name.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("the control character {} is not allowed", c.escape_unicode()).into()),
        None => Ok(()),
    }
}

/// Slashes only between segments, and no segment that a file system would follow elsewhere.
fn segments(path: &str) -> Verdict {
    match path.split('/').find(|segment| matches!(*segment, "" | "." | "..")) {
        Some("") => Err("a '/' at an end, or two in a row".into()),
        Some(dots) => Err(format!("'{dots}' is not allowed as a part").into()),
        None => Ok(()),
    }
}

/// Characters that take no room, reorder what is around them, or look like nothing: two names that differ only in them
/// look the same.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{8e2}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}'
        | '\u{feff}' | '\u{ffa0}' | '\u{110bd}' | '\u{110cd}'
        | '\u{600}'..='\u{605}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

fn refused(what: &str, name: &str, why: Cow<'static, str>) -> Error {
    Error::invalid(format!("{what} \"{}\"", brief(name)), why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_names(check: fn(&str) -> Result<()>, good: &[&str], bad: &[&str]) {
        for name in good {
            check(name).unwrap();
        }
        for name in bad {
            let message = check(name).expect_err(name).to_string();
            assert!(message.lines().count() == 1 && !message.contains('\u{1b}'), "{message:?}");
        }
    }

    const NEVER_TYPED: &[&str] =
        &["", " a", "a ", "a\0", "a\nb", "\u{1b}[2J", "a\u{202e}b", "a\u{200b}", "a\u{9b}b", "x@y"];

    #[test]
    fn runs() {
        assert_names(check_run, &["gpt", "team/exp 1/läuft", "a.b", "...", "-1", "7", &"r".repeat(512)], NEVER_TYPED);
        let bad = ["/a", "a/", "a//b", ".", "..", "a/../b", "./a", &"r".repeat(513)];
        assert_names(check_run, &[], &bad);
    }

    #[test]
    fn tags() {
        assert_names(check_tag, &["v1", "best-of", "bestest", "later", "2024-01-01", &"t".repeat(128)], NEVER_TYPED);
        let bad = ["a/b", "7", "+7", "007", "-1", "1.5", "1e3", "٣", "99999999999999999999999", "latest", "best"];
        assert_names(check_tag, &[], &bad);
        assert_names(check_tag, &[], &["best:", "best:loss", &"t".repeat(129)]);
    }

    #[test]
    fn metrics() {
        assert_names(check_metric, &["loss", "val/loss", "acc.top-1", "bleu_4", &"m".repeat(128)], NEVER_TYPED);
        assert_names(check_metric, &[], &["a:min", "a b", "a\u{a0}b", "a<b", "a>b", "a=b", "a!b", &"m".repeat(129)]);
    }

    #[test]
    fn components() {
        assert_names(check_component, &["model", "text_encoder.2", &"c".repeat(128)], NEVER_TYPED);
        assert_names(check_component, &[], &["a/b", "..", ".", "a=b", "a,b", "a:b", &"c".repeat(129)]);
    }

    #[test]
    fn tensors() {
        let long = "t".repeat(TENSOR_BYTES_MAX);
        assert_names(check_tensor, &["", "a@b/..//c", " ", "\u{202e}", &long], &["a\0", "\n", "__metadata__"]);
        assert_names(check_tensor, &[], &["\u{7f}", "\u{85}", &(long + "t")]);
    }

    #[test]
    fn side_files() {
        let long = "f".repeat(SIDE_FILE_BYTES_MAX);
        let good = ["config.json", "a/b/c", "..a", "a..", " ", "a\\b", "C:", &long];
        let bad = ["", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/.", "a\0b", "a\nb"];
        assert_names(check_side_file, &good, &bad);
        assert_names(check_side_file, &[], &[&(long.clone() + "f")]);
        assert_names(|name| check_output_name(name).map(drop), &good, &bad);
        assert_eq!(check_output_name("a/b").unwrap(), Path::new("a/b"));
    }

    #[test]
    fn components_of_tensors() {
        assert_eq!(component_of("optimizer.exp_avg.w"), "optimizer");
        assert_eq!(component_of("ema"), "ema");
        for name in ["layers.0.w", "modelling.w", "", ".optimizer", "x.ema.w"] {
            assert_eq!(component_of(name), "model", "{name}");
        }
    }

    #[test]
    fn terminals_stay_as_they_were() {
        assert!(matches!(printable("läuft \\ 1"), Cow::Borrowed("läuft \\ 1")));
        assert_eq!(printable("a\u{1b}[31m\n\u{202e}"), "a\\u{1b}[31m\\n\\u{202e}");
        assert_eq!(brief(&"n".repeat(100)), "n".repeat(100));
        assert_eq!(brief(&"n".repeat(101)), "n".repeat(100) + "…");
        assert_eq!(brief(&"\u{1b}".repeat(1 << 20)).chars().count(), 101);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_harmless(text: String) {
            let shown = printable(&text).into_owned();
            prop_assert!(!shown.contains(|c: char| c.is_control() || is_invisible(c)));
            prop_assert_eq!(&printable(&shown), &shown);
        }

        #[test]
        fn outputs_stay_below_their_root(name in "[a./\\\\\0-]{0,12}") {
            if let Ok(path) = check_output_name(&name) {
                prop_assert!(path.is_relative() && path.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(path.to_str().unwrap(), &name);
            }
        }
    }
}
