//! Durations as people write them: `90s`, `15m`, `2h`, `7d`, `2w`, `1d12h`.
//!
//! A duration is a number of seconds, never zero. Days and weeks are 24 hours and 7 days: there is no calendar here.
//! What [`words`] prints, [`parse`] reads back as the same number.

use crate::error::{Error, Result};

/// Largest first: the order in which the parts of a duration are written.
const UNITS: [(char, u64); 5] = [('w', 7 * 86_400), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// The seconds of a duration in words. Parts go from large to small, each unit at most once.
pub fn parse(text: &str) -> Result<u64> {
    let bad = |why: &str| Error::invalid(format!("duration {text:?}"), why);
    let shape = || bad("write a number and a unit, such as 90s, 15m, 2h, 7d, 2w or 1d12h");
    let (mut rest, mut units, mut secs) = (text, UNITS.iter(), 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|&at| at > 0).ok_or_else(shape)?;
        let (number, tail) = rest.split_at(digits);
        let mut tail = tail.chars();
        let letter = tail.next().ok_or_else(shape)?;
        let (_, unit_secs) = units.find(|(name, _)| *name == letter).ok_or_else(shape)?;
        let part_secs = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*unit_secs));
        secs = part_secs.and_then(|part| secs.checked_add(part)).ok_or_else(|| bad("too long"))?;
        rest = tail.as_str();
    }
    match secs {
        0 if text.is_empty() => Err(shape()),
        0 => Err(bad("must be longer than nothing")),
        secs => Ok(secs),
    }
}

/// A duration in words, the shortest that are exact. Never in weeks: `7d` says more than `1w`.
pub fn words(secs: u64) -> String {
    let (mut rest, mut words) = (secs, String::new());
    for (name, unit_secs) in UNITS.into_iter().filter(|(name, _)| *name != 'w') {
        if rest >= unit_secs {
            words += &format!("{}{name}", rest / unit_secs);
            rest %= unit_secs;
        }
    }
    if words.is_empty() { "0s".into() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn people_write_durations() {
        for (text, secs, printed) in [
            ("90s", 90, "1m30s"),
            ("15m", 900, "15m"),
            ("2h", 7_200, "2h"),
            ("7d", 604_800, "7d"),
            ("2w", 1_209_600, "14d"),
            ("1d12h", 129_600, "1d12h"),
            ("1w1d1h1m1s", 694_861, "8d1h1m1s"),
            ("0h5s", 5, "5s"),
        ] {
            assert_eq!(parse(text).unwrap(), secs, "{text}");
            assert_eq!(words(secs), printed, "{text}");
        }
    }

    #[test]
    fn what_has_no_one_meaning_is_refused() {
        for bad in ["", "0s", "0d0h", "5", "h", "1.5h", "-1h", "+1h", "1 h", "1h 5m", "5m1h", "1h1h", "1y", "1H", "1µ"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        for long in ["18446744073709551616s", "30500568904944w", "18446744073709551615s1s", "18446744073709551615m"] {
            assert!(parse(long).is_err(), "{long:?}");
        }
        let sum = parse("213503982334601d18446744073709551615s").unwrap_err();
        assert_eq!(sum.to_string(), "duration \"213503982334601d18446744073709551615s\": too long");
    }

    proptest! {
        #[test]
        fn words_parse_back(secs in prop_oneof![1..u64::MAX, 1..1_000_000_u64]) {
            prop_assert_eq!(parse(&words(secs)).unwrap(), secs);
        }

        #[test]
        fn any_text_parses_or_is_refused(text in "[0-9smhdw é]{0,24}") {
            if let Ok(secs) = parse(&text) {
                prop_assert_eq!(parse(&words(secs)).unwrap(), secs);
            }
        }
    }
}
