//! Numbers for people: three digits that matter and a unit.

use std::time::Duration;

use treering::env::Time;

/// `999 B`, `1.02 kB`, `17.2 MB`, `8.00 GB`: decimal, as disks are sold.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1e3;
    let mut unit = 0;
    // 999.5 would be written as 1000.
    while value >= 999.5 {
        value /= 1e3;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// Bytes a second.
pub(crate) fn rate(amount: u64, time: Duration) -> String {
    let secs = time.as_secs_f64().max(1e-9);
    format!("{}/s", bytes((amount as f64 / secs) as u64))
}

/// `840 ms`, `12.3 s`, `4m 05s`, `3h 20m`, `2d 4h`.
pub(crate) fn duration(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        _ if time < Duration::from_micros(999_500) => format!("{:.0} ms", time.as_secs_f64() * 1e3),
        0..60 => format!("{:.1} s", (time.as_secs_f64() * 10.0).floor() / 10.0),
        60..3600 => format!("{}m {:02}s", secs / 60, secs % 60),
        3600..86400 => format!("{}h {:02}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d {}h", secs / 86400, secs % 86400 / 3600),
    }
}

/// How long ago: `now`, `5 min ago`, `3 h ago`, `12 days ago`.
pub(crate) fn age(then: Time, now: Time) -> String {
    match now.secs_since(then) {
        0..45 => "now".into(),
        secs @ 45..5400 => format!("{} min ago", secs.div_ceil(60).max(1)),
        secs @ 5400..172_800 => format!("{} h ago", (secs + 1800) / 3600),
        secs => format!("{} days ago", secs / 86400),
    }
}

/// `part` of `whole`: `12.5 %`.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    let percent = part as f64 / whole as f64 * 100.0;
    if percent > 0.0 && percent < 0.01 { "<0.01 %".into() } else { format!("{} %", three_digits(percent)) }
}

/// Things: `1 checkpoint`, `12 000 checkpoints`.
pub(crate) fn count(n: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(n), if n == 1 { "" } else { "s" })
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        // Four digits read well without a gap.
        if digits.len() > 4 && at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

fn three_digits(value: f64) -> String {
    match value {
        _ if value >= 99.95 => format!("{value:.0}"),
        _ if value >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (1024, "1.02 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (17_200_000, "17.2 MB"),
            (8_000_000_000, "8.00 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn rates_survive_no_time_at_all() {
        assert_eq!(rate(1_500_000, Duration::from_millis(500)), "3.00 MB/s");
        assert_eq!(rate(0, Duration::ZERO), "0 B/s");
        assert!(rate(u64::MAX, Duration::ZERO).ends_with("EB/s"));
    }

    #[test]
    fn durations_have_two_parts() {
        for (millis, text) in [
            (0, "0 ms"),
            (840, "840 ms"),
            (1_000, "1.0 s"),
            (59_999, "59.9 s"),
            (60_000, "1m 00s"),
            (245_000, "4m 05s"),
            (12_000_000, "3h 20m"),
            (187_200_000, "2d 4h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn ages() {
        let now = Time(0).plus_secs(10_000_000);
        let ago = |secs: u64| age(Time(0).plus_secs(10_000_000 - secs), now);
        assert_eq!((ago(0).as_str(), ago(60).as_str(), ago(7200).as_str()), ("now", "1 min ago", "2 h ago"));
        assert_eq!(ago(5 * 86400), "5 days ago");
        assert_eq!(age(now.plus_secs(50), now), "now", "a clock that runs ahead");
    }

    #[test]
    fn shares_and_counts() {
        assert_eq!(percent(1, 8), "12.5 %");
        assert_eq!(percent(1, 1_000_000_000), "<0.01 %");
        assert_eq!(percent(0, 5), "0.00 %");
        assert_eq!(percent(1, 0), "-");
        assert_eq!(count(1, "step"), "1 step");
        assert_eq!(count(1234, "step"), "1234 steps");
        assert_eq!(count(1_234_567, "step"), "1 234 567 steps");
    }
}
