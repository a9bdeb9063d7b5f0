//! Comparisons of numbers by name: `val_loss<2.1 and step>=100`.
//!
//! Knows no metric: it asks for the number behind a name, and a name without one makes its comparison false.

use std::str::FromStr;

use super::values::number;

/// Comparisons that must all be true.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Filter {
    pub(crate) all: Vec<Comparison>,
}

/// `NAME op VALUE`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comparison {
    pub(crate) name: String,
    pub(crate) op: Op,
    pub(crate) value: f64,
}

/// How two numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    Unequal,
}

/// The longer ones first, so that `<=` is not read as `<`.
const OPS: &[(&str, Op)] = &[
    ("<=", Op::AtMost),
    (">=", Op::AtLeast),
    ("!=", Op::Unequal),
    ("==", Op::Equal),
    ("<", Op::Less),
    (">", Op::More),
    ("=", Op::Equal),
];

impl Filter {
    /// Whether every comparison is true of the numbers that `value` gives for names.
    pub(crate) fn matches(&self, value: impl Fn(&str) -> Option<f64>) -> bool {
        self.all.iter().all(|c| value(&c.name).is_some_and(|left| c.op.holds(left, c.value)))
    }
}

impl Op {
    /// As numbers compare, except that a NaN equals a NaN: `loss=nan` finds them.
    pub(crate) fn holds(self, left: f64, right: f64) -> bool {
        let equal = left == right || (left.is_nan() && right.is_nan());
        match self {
            Op::Less => left < right,
            Op::AtMost => left <= right,
            Op::More => left > right,
            Op::AtLeast => left >= right,
            Op::Equal => equal,
            Op::Unequal => !equal,
        }
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let parts = words.split(|word| word.eq_ignore_ascii_case("and"));
        Ok(Filter { all: parts.map(|words| words.join(" ").parse()).collect::<Result<_, String>>()? })
    }
}

impl FromStr for Comparison {
    type Err = String;

    fn from_str(text: &str) -> Result<Comparison, String> {
        let wrong = || format!("`{text}` is no comparison; write it as \"val_loss<2.1 and step>=100\"");
        let start = text.find(['<', '>', '=', '!']).ok_or_else(wrong)?;
        let (name, rest) = text.split_at(start);
        let (sign, op) = OPS.iter().find(|(sign, _)| rest.starts_with(sign)).ok_or_else(wrong)?;
        let value = number(&rest[sign.len()..])?;
        match name.trim() {
            "" => Err(wrong()),
            name => Ok(Comparison { name: name.into(), op: *op, value }),
        }
    }
}
