//! A series as one line of blocks.

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The series in at most `width` characters, lowest to highest; longer ones are averaged. A gap is where no finite
/// number is.
pub(crate) fn spark(values: &[f64], width: usize) -> String {
    let points = resample(values, width);
    let finite = || points.iter().flatten().copied();
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    points.iter().map(|point| point.map_or(' ', |value| block(value, low, high))).collect()
}

/// Means of the finite numbers in `width` even parts.
fn resample(values: &[f64], width: usize) -> Vec<Option<f64>> {
    let width = width.min(values.len());
    let edge = |i: usize| (i as u128 * values.len() as u128 / width as u128) as usize;
    let mean = |i: usize| {
        let finite: Vec<f64> = values[edge(i)..edge(i + 1)].iter().copied().filter(|v| v.is_finite()).collect();
        // Divided first: a sum of large numbers may leave their range.
        (!finite.is_empty()).then(|| finite.iter().map(|v| v / finite.len() as f64).sum())
    };
    (0..width).map(mean).collect()
}

fn block(value: f64, low: f64, high: f64) -> char {
    // Halves, so that the span of any two finite numbers is finite.
    let span = high / 2.0 - low / 2.0;
    if span <= 0.0 {
        return BLOCKS[3];
    }
    let share = (value / 2.0 - low / 2.0) / span;
    BLOCKS[((share * 8.0) as usize).min(7)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rises_from_low_to_high() {
        let ramp: Vec<f64> = (0..8).map(f64::from).collect();
        assert_eq!(spark(&ramp, 8), "▁▂▃▄▅▆▇█");
        assert_eq!(spark(&ramp, 4), "▁▃▆█");
        assert_eq!(spark(&ramp, 100), "▁▂▃▄▅▆▇█", "never stretched");
    }

    #[test]
    fn gaps_where_no_number_is() {
        assert_eq!(spark(&[0.0, f64::NAN, 1.0, f64::INFINITY], 9), "▁ █ ");
        assert_eq!(spark(&[f64::NAN, 0.0, 1.0, 1.0], 2), "▁█", "a mean leaves them out");
        assert_eq!(spark(&[f64::NAN; 3], 9), "   ");
    }

    #[test]
    fn flat_empty_and_extreme() {
        assert_eq!(spark(&[5.0; 3], 9), "▄▄▄");
        assert_eq!(spark(&[], 9), "");
        assert_eq!(spark(&[1.0], 0), "");
        assert_eq!(spark(&[f64::MIN, f64::MAX], 9), "▁█");
    }

    proptest! {
        #[test]
        fn as_wide_as_asked(values in prop::collection::vec(any::<f64>(), 0..60), width in 0_usize..40) {
            prop_assert_eq!(spark(&values, width).chars().count(), width.min(values.len()));
        }
    }
}
