//! Matrices as slices, row after row, and random numbers.
//!
//! The loops are written so that a compiler vectorises them and so that their order of additions is fixed: the same
//! numbers come out bit for bit, each time.

/// Partial sums of a dot product; as many as are worth having in vector registers.
const LANES: usize = 8;

/// `inputs` through a layer: a row for each row. Weights are outputs x inputs; `biases` says how many outputs.
pub(super) fn dense(inputs: &[f32], weights: &[f32], biases: &[f32]) -> Vec<f32> {
    let width = weights.len() / biases.len();
    let mut out = vec![0.0; inputs.len() / width * biases.len()];
    // A few rows of weights stay in the cache while all inputs pass by.
    for (first, weights) in weights.chunks(4 * width).enumerate() {
        for (row, out) in inputs.chunks_exact(width).zip(out.chunks_exact_mut(biases.len())) {
            let out = &mut out[4 * first..];
            if weights.len() == 4 * width {
                let sums = dot4(row, weights);
                for (lane, sum) in sums.into_iter().enumerate() {
                    out[lane] = sum + biases[4 * first + lane];
                }
            } else {
                for (lane, weights) in weights.chunks_exact(width).enumerate() {
                    out[lane] = dot(row, weights) + biases[4 * first + lane];
                }
            }
        }
    }
    out
}

/// What each weight and each bias did to the loss.
pub(super) fn grad_weights(flow: &[f32], seen: &[f32], outputs: usize, inputs: usize) -> (Vec<f32>, Vec<f32>) {
    let mut weights = vec![0.0; outputs * inputs];
    let mut biases = vec![0.0; outputs];
    for (output, gradient) in weights.chunks_exact_mut(inputs).enumerate() {
        let column: Vec<f32> = flow.iter().skip(output).step_by(outputs).copied().collect();
        biases[output] = column.iter().sum();
        add_rows(gradient, &column, seen);
    }
    (weights, biases)
}

/// What each input did to the loss.
pub(super) fn grad_inputs(flow: &[f32], weights: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let mut out = vec![0.0; flow.len() / outputs * inputs];
    for (row, out) in flow.chunks_exact(outputs).zip(out.chunks_exact_mut(inputs)) {
        add_rows(out, row, weights);
    }
    out
}

/// Adds rows, each times its factor.
fn add_rows(out: &mut [f32], factors: &[f32], rows: &[f32]) {
    let width = out.len();
    let mut quads = factors.chunks_exact(4);
    let mut rows = rows.chunks(4 * width);
    for (f, rows) in quads.by_ref().zip(rows.by_ref()) {
        let (ab, cd) = rows.split_at(2 * width);
        let ((a, b), (c, d)) = (ab.split_at(width), cd.split_at(width));
        for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *out += f[0] * a + f[1] * b + f[2] * c + f[3] * d;
        }
    }
    for (f, row) in quads.remainder().iter().zip(rows.flat_map(|rows| rows.chunks_exact(width))) {
        for (out, x) in out.iter_mut().zip(row) {
            *out += f * x;
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.0.iter().zip(b.0) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f32>()
}

/// Four dot products with the same row: it is loaded once for all.
fn dot4(row: &[f32], four: &[f32]) -> [f32; 4] {
    let width = row.len();
    let rows: [&[f32]; 4] = std::array::from_fn(|i| &four[i * width..][..width]);
    let blocks = rows.map(|r| r.as_chunks::<LANES>().0);
    let mut sums = [[0.0_f32; LANES]; 4];
    for ((((x, a), b), c), d) in
        row.as_chunks::<LANES>().0.iter().zip(blocks[0]).zip(blocks[1]).zip(blocks[2]).zip(blocks[3])
    {
        for lane in 0..LANES {
            sums[0][lane] += x[lane] * a[lane];
            sums[1][lane] += x[lane] * b[lane];
            sums[2][lane] += x[lane] * c[lane];
            sums[3][lane] += x[lane] * d[lane];
        }
    }
    let rest = width - width % LANES;
    std::array::from_fn(|i| {
        sums[i].iter().sum::<f32>() + row[rest..].iter().zip(&rows[i][rest..]).map(|(a, b)| a * b).sum::<f32>()
    })
}

/// Negative values become zero.
pub(super) fn relu(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = x.max(0.0));
}

/// Stops the flow where the activation was zero.
pub(super) fn relu_gate(flow: &mut [f32], seen: &[f32]) {
    flow.iter_mut().zip(seen).for_each(|(flow, seen)| *flow = if *seen > 0.0 { *flow } else { 0.0 });
}

/// The mean loss, and what each logit did to it.
pub(super) fn softmax_cross_entropy(logits: &[f32], labels: &[usize], classes: usize) -> (f32, Vec<f32>) {
    let mut flow = logits.to_vec();
    let mut loss = 0.0;
    for (row, &label) in flow.chunks_exact_mut(classes).zip(labels) {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|x| *x = (*x - highest).exp());
        let sum: f32 = row.iter().sum();
        loss -= (row[label] / sum).max(f32::MIN_POSITIVE).ln();
        row.iter_mut().for_each(|x| *x /= sum * labels.len() as f32);
        row[label] -= 1.0 / labels.len() as f32;
    }
    (loss / labels.len() as f32, flow)
}

/// SplitMix64: small, and its whole state is one number.
pub(super) struct Random(u64);

impl Random {
    /// From a seed, or from another's [`Random::state`].
    pub(super) fn new(state: u64) -> Random {
        Random(state)
    }

    pub(super) fn state(&self) -> u64 {
        self.0
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to 1.
    pub(super) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// From a bell curve of width 1.
    pub(super) fn normal(&mut self) -> f32 {
        let (radius, angle) = (1.0 - self.uniform(), self.uniform() * std::f32::consts::TAU);
        (-2.0 * radius.ln()).sqrt() * angle.cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Widths around each block of the loops above.
    const WIDTHS: [usize; 6] = [1, 3, 4, 7, 8, 19];

    fn numbers(n: usize, random: &mut Random) -> Vec<f32> {
        (0..n).map(|_| random.normal()).collect()
    }

    #[test]
    fn the_fast_loops_are_the_plain_sums() {
        let mut random = Random::new(1);
        for inputs in WIDTHS {
            for outputs in WIDTHS {
                for rows in [1, 4, 5] {
                    let (x, w) = (numbers(rows * inputs, &mut random), numbers(outputs * inputs, &mut random));
                    let (b, flow) = (numbers(outputs, &mut random), numbers(rows * outputs, &mut random));
                    let close = |a: &[f32], plain: &dyn Fn(usize) -> f32| {
                        a.iter().enumerate().all(|(i, a)| (a - plain(i)).abs() < 1e-4)
                    };
                    assert!(close(&dense(&x, &w, &b), &|i| {
                        let (row, out) = (i / outputs, i % outputs);
                        b[out] + (0..inputs).map(|k| x[row * inputs + k] * w[out * inputs + k]).sum::<f32>()
                    }));
                    let (weights, biases) = grad_weights(&flow, &x, outputs, inputs);
                    assert!(close(&weights, &|i| {
                        let (out, k) = (i / inputs, i % inputs);
                        (0..rows).map(|row| flow[row * outputs + out] * x[row * inputs + k]).sum()
                    }));
                    assert!(close(&biases, &|out| (0..rows).map(|row| flow[row * outputs + out]).sum()));
                    assert!(close(&grad_inputs(&flow, &w, outputs, inputs), &|i| {
                        let (row, k) = (i / inputs, i % inputs);
                        (0..outputs).map(|out| flow[row * outputs + out] * w[out * inputs + k]).sum()
                    }));
                }
            }
        }
    }

    #[test]
    fn the_gradient_of_the_loss_is_its_slope() {
        let logits = [0.3, -1.2, 2.0, 0.1, 0.0, -0.4];
        let labels = [2, 0];
        let (_, flow) = softmax_cross_entropy(&logits, &labels, 3);
        for at in 0..logits.len() {
            let loss = |change: f32| {
                let mut logits = logits;
                logits[at] += change;
                softmax_cross_entropy(&logits, &labels, 3).0
            };
            assert!(((loss(1e-2) - loss(-1e-2)) / 2e-2 - flow[at]).abs() < 1e-3);
        }
    }
}
