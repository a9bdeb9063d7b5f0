//! Examples to learn from: points around the arms of noisy spirals, among inputs that mean nothing.

use super::math::Random;

/// Numbers that describe an example. Two of them matter.
pub(super) const INPUTS: usize = 8;

/// Arms of the spiral.
pub(super) const CLASSES: usize = 3;

const TRAINING: usize = 768;
const VALIDATION: usize = 512;

/// How many examples in a hundred carry a wrong label, so that learning them by heart shows.
const WRONG: usize = 10;

/// Training and validation examples.
pub(super) struct Data {
    pub(super) training: Examples,
    pub(super) validation: Examples,
}

/// Inputs, a row each, and which arm each is on.
pub(super) struct Examples {
    pub(super) inputs: Vec<f32>,
    pub(super) labels: Vec<usize>,
}

impl Data {
    pub(super) fn new(random: &mut Random) -> Data {
        Data { training: Examples::new(TRAINING, random), validation: Examples::new(VALIDATION, random) }
    }
}

impl Examples {
    fn new(count: usize, random: &mut Random) -> Examples {
        let mut examples = Examples { inputs: Vec::with_capacity(count * INPUTS), labels: Vec::with_capacity(count) };
        for at in 0..count {
            let arm = at % CLASSES;
            let radius = random.uniform();
            let angle = radius * 5.0 + arm as f32 * (std::f32::consts::TAU / CLASSES as f32) + random.normal() * 0.15;
            examples.inputs.extend([2.5 * radius * angle.cos(), 2.5 * radius * angle.sin()]);
            examples.inputs.extend((2..INPUTS).map(|_| random.normal() * 0.2));
            let wrong = random.below(100) < WRONG;
            examples.labels.push(if wrong { random.below(CLASSES) } else { arm });
        }
        examples
    }
}
