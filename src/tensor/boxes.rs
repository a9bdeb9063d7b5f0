//! Boxes of tensors: what a process has of a tensor that is sharded along any of its dimensions.
//!
//! The elements of a box lie in *runs*: stretches that are without a gap in the tensor too. Those of a box of rows are
//! one run; those of a box of columns are one run for each row.

use std::collections::HashSet;
use std::ops::Range;

use super::TensorMeta;

/// Dimensions along which a tensor may be cut, at most: each doubles the corners of a box.
pub const CUT_DIMENSIONS_MAX: usize = 4;

/// A box: a stretch of each dimension of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorBox {
    /// Where it begins in each dimension.
    pub offsets: Vec<u64>,
    /// How long it is in each.
    pub lengths: Vec<u64>,
}

/// Where the bytes of a box lie in its tensor. They are counted in two ways: within the box, whose elements lie in
/// row-major order, and within the tensor. Both grow together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Bytes of one run.
    run_bytes: u64,
    /// Where in the tensor the first begins.
    first: u64,
    /// Of each dimension that is counted through from run to run, the outermost first: its length in the box, and the
    /// bytes of the tensor from one index to the next.
    outer: Vec<(u64, u64)>,
}

impl TensorBox {
    /// The whole tensor.
    pub fn whole(shape: &[u64]) -> TensorBox {
        TensorBox { offsets: vec![0; shape.len()], lengths: shape.to_vec() }
    }
}

impl Runs {
    /// Those of a box. `None` if it is no box of this tensor, or if one of its elements begins within a byte.
    pub fn new(of: &TensorBox, tensor: &TensorMeta) -> Option<Runs> {
        let TensorBox { offsets, lengths } = of;
        let shape = &tensor.shape;
        let ends = offsets.iter().zip(lengths).map(|(offset, length)| offset.checked_add(*length));
        if offsets.len() != shape.len() || lengths.len() != shape.len() {
            return None;
        }
        if !ends.zip(shape).all(|(end, all)| end.is_some_and(|end| end <= *all)) {
            return None;
        }
        if lengths.contains(&0) {
            return Some(Runs { run_bytes: 0, first: 0, outer: Vec::new() });
        }
        // From the innermost dimension on: what is whole belongs to the run, and so does the first that is not.
        let bits = u64::from(tensor.dtype.bits()?);
        let (mut stride, mut run_bits, mut first, mut outer) = (bits, bits, 0u64, Vec::new());
        let mut within_run = true;
        for ((&offset, &length), &all) in offsets.iter().zip(lengths).zip(shape).rev() {
            first = first.checked_add(offset.checked_mul(stride)?)?;
            if within_run {
                run_bits = run_bits.checked_mul(length)?;
                within_run = length == all;
            } else if length > 1 {
                if !stride.is_multiple_of(8) {
                    return None;
                }
                outer.push((length, stride / 8));
            }
            stride = stride.checked_mul(all)?;
        }
        if !run_bits.is_multiple_of(8) || !first.is_multiple_of(8) {
            return None;
        }
        outer.reverse();
        Some(Runs { run_bytes: run_bits / 8, first: first / 8, outer })
    }

    /// The bytes of the box.
    pub fn bytes(&self) -> u64 {
        self.run_bytes * self.count()
    }

    /// Where in the tensor the box lies without a gap, if it does.
    pub fn stretch(&self) -> Option<Range<u64>> {
        self.outer.is_empty().then(|| self.first..self.first + self.run_bytes)
    }

    /// The bytes of the box that lie in this stretch of the tensor.
    pub fn within(&self, stretch: &Range<u64>) -> Range<u64> {
        // All runs before the one that is looked for, and what of it lies outside the stretch.
        let begins_before = |at: u64| self.first_run(|begin| begin >= at);
        let from = self.first_run(|begin| begin + self.run_bytes > stretch.start);
        let to = begins_before(stretch.end);
        if from >= to {
            return 0..0;
        }
        let begin = from * self.run_bytes + stretch.start.saturating_sub(self.begin_of(from));
        let last = to - 1;
        let end = last * self.run_bytes + self.run_bytes.min(stretch.end - self.begin_of(last));
        begin..end
    }

    /// Takes a stretch of the box's bytes apart into pieces without a gap: where each begins in the tensor, and its length.
    pub fn pieces(&self, stretch: Range<u64>) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut at = stretch.start;
        std::iter::from_fn(move || {
            if at >= stretch.end {
                return None;
            }
            let (run, skipped) = (at / self.run_bytes, at % self.run_bytes);
            let length = (self.run_bytes - skipped).min(stretch.end - at);
            at += length;
            Some((self.begin_of(run) + skipped, length))
        })
    }

    fn count(&self) -> u64 {
        self.outer.iter().map(|(length, _)| length).product()
    }

    /// Where in the tensor a run begins.
    fn begin_of(&self, mut run: u64) -> u64 {
        let mut begin = self.first;
        for (length, stride) in self.outer.iter().rev() {
            begin += run % length * stride;
            run /= length;
        }
        begin
    }

    /// The first run for whose begin this holds, as it does for all after it.
    fn first_run(&self, holds: impl Fn(u64) -> bool) -> u64 {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(self.begin_of(middle)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }
}

/// Whether each element of a tensor, whole bytes long, lies in exactly one of these boxes.
///
/// Counted modulo 2, a function that is 1 in a box and 0 elsewhere is known by the box's corners. So if all boxes
/// together have the corners of the tensor, and all others an even number of times, then each element is in an odd number
/// of boxes; and if they hold as many bytes as the tensor, that number is one.
pub fn tile(boxes: &[TensorBox], tensor: &TensorMeta) -> bool {
    let mut bytes = 0u64;
    for of in boxes {
        let Some(sum) = Runs::new(of, tensor).and_then(|runs| bytes.checked_add(runs.bytes())) else { return false };
        bytes = sum;
    }
    let whole = TensorBox::whole(&tensor.shape);
    if !tensor.dtype.bits().is_some_and(|bits| bits.is_multiple_of(8)) {
        return false;
    }
    let is_cut = |&d: &usize| boxes.iter().any(|of| of.lengths[d] != tensor.shape[d]);
    let cut: Vec<usize> = (0..tensor.shape.len()).filter(is_cut).collect();
    if bytes != tensor.bytes || cut.len() > CUT_DIMENSIONS_MAX {
        return false;
    }
    let mut odd: HashSet<[u64; CUT_DIMENSIONS_MAX]> = HashSet::new();
    for of in boxes.iter().chain([&whole]).filter(|of| !of.lengths.contains(&0)) {
        for ends in 0..1u64 << cut.len() {
            let mut corner = [0; CUT_DIMENSIONS_MAX];
            for (bit, (at, &d)) in corner.iter_mut().zip(&cut).enumerate() {
                *at = of.offsets[d] + of.lengths[d] * (ends >> bit & 1);
            }
            if !odd.remove(&corner) {
                odd.insert(corner);
            }
        }
    }
    odd.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::DType;

    fn tensor(dtype: &str, shape: &[u64]) -> TensorMeta {
        let dtype = DType::new(dtype);
        let bytes = shape.iter().product::<u64>() * u64::from(dtype.bits().unwrap()) / 8;
        TensorMeta { name: "t".into(), dtype, shape: shape.to_vec(), bytes }
    }

    fn a_box(offsets: &[u64], lengths: &[u64]) -> TensorBox {
        TensorBox { offsets: offsets.to_vec(), lengths: lengths.to_vec() }
    }

    /// A shape, and a box in it.
    fn placed() -> impl Strategy<Value = (Vec<u64>, TensorBox)> {
        let stretch = |all: u64| (0..=all).prop_flat_map(move |from| (Just(from), 0..=all - from));
        proptest::collection::vec(1u64..6, 0..4).prop_flat_map(move |shape| {
            let stretches: Vec<_> = shape.iter().map(|&all| stretch(all)).collect();
            (Just(shape), stretches).prop_map(|(shape, stretches)| {
                let (offsets, lengths) = stretches.into_iter().unzip();
                (shape, TensorBox { offsets, lengths })
            })
        })
    }

    /// Where the bytes of a box lie, element by element.
    fn places(shape: &[u64], of: &TensorBox, width: u64) -> Vec<u64> {
        let mut elements = vec![0];
        for ((offset, length), all) in of.offsets.iter().zip(&of.lengths).zip(shape) {
            elements = elements.iter().flat_map(|at| (*offset..offset + length).map(move |i| at * all + i)).collect();
        }
        elements.into_iter().flat_map(|at| at * width..(at + 1) * width).collect()
    }

    proptest! {
        #[test]
        fn runs_are_the_elements_in_order((shape, of) in placed(), from in 0u64..200, length in 0u64..200) {
            let places = places(&shape, &of, 2);
            let runs = Runs::new(&of, &tensor("BF16", &shape)).unwrap();
            prop_assert_eq!(runs.bytes(), places.len() as u64);
            let all: Vec<u64> = runs.pieces(0..runs.bytes()).flat_map(|(at, length)| at..at + length).collect();
            prop_assert_eq!(&all, &places);
            let is_stretch = places.windows(2).all(|pair| pair[1] == pair[0] + 1);
            prop_assert_eq!(runs.stretch().is_some(), is_stretch);
            // A part of it, by bytes of the box and by bytes of the tensor.
            let (from, to) = (from.min(runs.bytes()), (from + length).min(runs.bytes()));
            let part: Vec<u64> = runs.pieces(from..to).flat_map(|(at, length)| at..at + length).collect();
            prop_assert_eq!(&part[..], &places[from as usize..to as usize]);
            let stretch = from..from + length;
            let inside = runs.within(&stretch);
            let expected: Vec<u64> = places.iter().copied().filter(|at| stretch.contains(at)).collect();
            prop_assert_eq!(&places[inside.start as usize..inside.end as usize], &expected);
        }

        #[test]
        fn boxes_tile_a_tensor_if_each_element_is_in_one(
            shape in proptest::collection::vec(1u64..4, 1..4),
            cuts in proptest::collection::vec((0usize..4, 0usize..3, 1u64..3), 0..6),
            moved in proptest::option::of((0usize..8, 0usize..3)),
        ) {
            // Cut in two again and again; then perhaps one box is moved by one.
            let mut boxes = vec![TensorBox::whole(&shape)];
            for (which, dimension, at) in cuts {
                let (which, dimension) = (which % boxes.len(), dimension % shape.len());
                let whole = boxes[which].clone();
                let at = at.min(whole.lengths[dimension]);
                boxes[which].lengths[dimension] = at;
                let mut rest = whole;
                rest.offsets[dimension] += at;
                rest.lengths[dimension] -= at;
                boxes.push(rest);
            }
            if let Some((which, dimension)) = moved {
                let (which, dimension) = (which % boxes.len(), dimension % shape.len());
                boxes[which].offsets[dimension] += 1;
            }
            let meta = tensor("U8", &shape);
            let mut times = vec![0; meta.bytes as usize];
            let inside = boxes.iter().all(|of| Runs::new(of, &meta).is_some());
            if inside {
                boxes.iter().flat_map(|of| places(&shape, of, 1)).for_each(|at| times[at as usize] += 1);
            }
            prop_assert_eq!(tile(&boxes, &meta), inside && times.iter().all(|&n| n == 1));
        }
    }

    #[test]
    fn a_box_that_is_none_has_no_runs() {
        let wide = tensor("F32", &[4, 6]);
        for (offsets, lengths) in
            [(&[0, 0][..], &[4, 7][..]), (&[4, 0], &[1, 6]), (&[0], &[4]), (&[u64::MAX, 0], &[2, 6])]
        {
            assert_eq!(Runs::new(&a_box(offsets, lengths), &wide), None, "{offsets:?} {lengths:?}");
        }
        // Three elements of four bits end within a byte, and so does a row of three.
        assert_eq!(Runs::new(&a_box(&[0, 0], &[4, 3]), &tensor("F4", &[4, 6])), None);
        assert_eq!(Runs::new(&a_box(&[0, 1], &[4, 2]), &tensor("F4", &[4, 6])), None);
        assert_eq!(Runs::new(&a_box(&[0, 0], &[2, 2]), &tensor("F4", &[4, 3])), None);
        assert_eq!(Runs::new(&a_box(&[1, 2], &[3, 2]), &tensor("F4", &[4, 6])).unwrap().bytes(), 3);
        let huge = TensorMeta { bytes: 0, ..tensor("U8", &[1]) };
        let huge = TensorMeta { shape: vec![1 << 40, 1 << 40], ..huge };
        assert_eq!(Runs::new(&a_box(&[1 << 30, 0], &[1, 1]), &huge), None);
    }

    #[test]
    fn boxes_that_leave_out_what_others_have_twice_do_not_tile() {
        let meta = tensor("U8", &[2, 2]);
        let corner = |row, column| a_box(&[row, column], &[1, 1]);
        assert!(tile(&[corner(0, 0), corner(0, 1), corner(1, 0), corner(1, 1)], &meta));
        assert!(!tile(&[corner(0, 0), corner(0, 0), corner(1, 0), corner(1, 1)], &meta));
        assert!(!tile(&[a_box(&[0, 0], &[1, 2]), a_box(&[0, 0], &[2, 1])], &meta));
        let half = |at| a_box(&[0, at], &[2, 2]);
        assert!(
            tile(&[half(0), half(2)], &tensor("U8", &[2, 4])) && !tile(&[half(0), half(2)], &tensor("F4", &[2, 4]))
        );
        assert!(!tile(&[], &meta) && tile(&[], &tensor("U8", &[0, 3])) && !tile(&[], &tensor("U8", &[])));
        // A pinwheel, which no cuts through the whole would make.
        let pinwheel =
            [a_box(&[0, 0], &[1, 2]), a_box(&[0, 2], &[2, 1]), a_box(&[2, 1], &[1, 2]), a_box(&[1, 0], &[2, 1])];
        assert!(!tile(&pinwheel, &tensor("U8", &[3, 3])));
        assert!(tile(&[&pinwheel[..], &[a_box(&[1, 1], &[1, 1])]].concat(), &tensor("U8", &[3, 3])));
    }
}
