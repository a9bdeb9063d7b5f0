//! Values as people type them: metrics, durations, sizes, rules.
//!
//! Each is refused with one line that says what would have been right.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::{OsStringValueParser, TypedValueParser};

/// `NAME=VALUE`: a metric and its value, which may be NaN or infinite.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Score {
    pub(crate) name: String,
    pub(crate) value: f64,
}

impl FromStr for Score {
    type Err = String;

    fn from_str(text: &str) -> Result<Score, String> {
        let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE, such as val_loss=0.31")?;
        if name.trim().is_empty() {
            return Err("the name is missing: write it as NAME=VALUE, such as val_loss=0.31".into());
        }
        Ok(Score { name: name.trim().into(), value: number(value)? })
    }
}

/// A number as Rust reads it, with `nan` and `inf`.
pub(super) fn number(text: &str) -> Result<f64, String> {
    let text = text.trim();
    text.parse().map_err(|_| format!("`{text}` is not a number (nan and inf are)"))
}

/// A step: NaN and negative numbers get an answer that says what it is.
pub(super) fn step(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "a step is a whole number from 0 to 18446744073709551615".into())
}

/// Which values of a metric are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Direction {
    /// Small ones.
    Min,
    /// Large ones.
    Max,
}

/// `COMPONENT=FILE`, or a file or folder alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Input {
    pub(crate) component: Option<String>,
    pub(crate) path: PathBuf,
}

impl Input {
    pub(super) fn parser() -> impl TypedValueParser<Value = Input> {
        OsStringValueParser::new().map(Input::new)
    }

    /// A component is a plain word, so that `./a=b.safetensors` is a path, as is anything that is not text.
    fn new(text: OsString) -> Input {
        let plain = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
        match text.to_str().and_then(|text| text.split_once('=')) {
            Some((component, path)) if plain(component) && !path.is_empty() => {
                Input { component: Some(component.into()), path: path.into() }
            }
            _ => Input { component: None, path: text.into() },
        }
    }
}

/// JSON, written out or in a file: `{"epoch":3}` or `@state.json`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Text(serde_json::Value),
    File(PathBuf),
}

impl FromStr for Json {
    type Err = String;

    fn from_str(text: &str) -> Result<Json, String> {
        match text.strip_prefix('@') {
            Some(path) => Ok(Json::File(path.into())),
            None => serde_json::from_str(text).map(Json::Text).map_err(|e| format!("this is not JSON: {e}")),
        }
    }
}

impl Json {
    /// The value, read from its file if it is in one.
    pub(crate) fn load(&self) -> treering::Result<serde_json::Value> {
        match self {
            Json::Text(value) => Ok(value.clone()),
            Json::File(path) => read_json(path),
        }
    }
}

fn read_json(path: &Path) -> treering::Result<serde_json::Value> {
    let bytes = std::fs::read(path).map_err(|source| treering::Error::Io { op: "read", path: path.into(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|e| treering::Error::invalid(path.display().to_string(), format!("this is not JSON: {e}")))
}

/// `METRIC:N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeepBest {
    pub(crate) metric: String,
    pub(crate) count: u64,
}

impl FromStr for KeepBest {
    type Err = String;

    fn from_str(text: &str) -> Result<KeepBest, String> {
        let (metric, count) = name_and_count(text).ok_or("write it as METRIC:N, such as val_loss:3")?;
        Ok(KeepBest { metric, count })
    }
}

/// `COMPONENT:N[+best]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thin {
    pub(crate) component: String,
    /// The component stays in so many of the newest steps.
    pub(crate) newest: u64,
    /// And in the best ones.
    pub(crate) best: bool,
}

impl FromStr for Thin {
    type Err = String;

    fn from_str(text: &str) -> Result<Thin, String> {
        let rule = text.strip_suffix("+best").unwrap_or(text);
        let (component, newest) = name_and_count(rule).ok_or("write it as COMPONENT:N, such as optimizer:2")?;
        Ok(Thin { component, newest, best: rule.len() < text.len() })
    }
}

/// Names may hold colons; the count is behind the last.
fn name_and_count(text: &str) -> Option<(String, u64)> {
    let (name, count) = text.rsplit_once(':')?;
    (!name.is_empty()).then_some((name.to_string(), count.parse().ok()?))
}

/// A length of time: `90s`, `2h`, `1h30m`, `7d`, `500ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no length of time; write it as 90s, 30m, 2h, 7d or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (count, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let millis: u64 = match unit.trim() {
            "ms" => 1,
            "s" | "sec" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return Err(wrong()),
        };
        let count: u64 = count.parse().map_err(|_| wrong())?;
        let part = Duration::from_millis(count.checked_mul(millis).ok_or_else(wrong)?);
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(total)
}

/// A number of bytes: `5GB`, `2GiB`, `1.5 MB`, `4096`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size; write it as 500MB, 5GB or 2GiB");
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (count, unit) = text.split_at(split);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" => 1_000,
        "mb" | "m" => 1_000_000,
        "gb" | "g" => 1_000_000_000,
        "tb" | "t" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = match count.parse::<u64>() {
        Ok(count) => count.checked_mul(unit).ok_or_else(wrong)?,
        Err(_) => {
            let bytes = count.parse::<f64>().map_err(|_| wrong())? * unit as f64;
            // Beyond 2^53 a fraction no longer says which byte is meant, and nobody writes one.
            if bytes >= (1_u64 << 53) as f64 {
                return Err(wrong());
            }
            bytes as u64
        }
    };
    if bytes == 0 { Err(wrong()) } else { Ok(bytes) }
}
