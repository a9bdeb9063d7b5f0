//! Tensors that are another of the same checkpoint in fewer bits.
//!
//! Trainers in mixed precision keep weights twice: in 32 bits, and as the 16-bit copy that the model computes with. The
//! copy costs nothing once it is known to be one. Names differ from trainer to trainer, so it is looked for among all
//! tensors of that shape, by a few of its elements; whether it is one to the last bit is checked chunk by chunk.

use std::collections::HashMap;

use super::ingest::{InputTensor, Inputs};
use crate::codec::is_cast;
use crate::error::Result;

/// Tensors of one shape that are looked at for each copy, those of the same name first.
const CANDIDATES_MAX: usize = 16;
/// Places that are compared, and elements at each.
const PLACES: u64 = 8;
const ELEMENTS: u64 = 16;

/// For each tensor the one that it seems to be the cast of.
pub(super) fn sources(inputs: &Inputs<'_>) -> Result<Vec<Option<usize>>> {
    let mut wide: HashMap<&[u64], Vec<usize>> = HashMap::new();
    for (n, tensor) in inputs.tensors.iter().enumerate().filter(|(_, tensor)| tensor.meta.dtype.name() == "F32") {
        wide.entry(&tensor.meta.shape).or_default().push(n);
    }
    let source = |tensor: &InputTensor| -> Result<Option<usize>> {
        let is_half = matches!(tensor.meta.dtype.name(), "BF16" | "F16") && tensor.meta.bytes > 0;
        let Some(of_shape) = wide.get(&tensor.meta.shape[..]).filter(|_| is_half) else { return Ok(None) };
        let own = inner_name(&tensor.meta.name);
        let (namesakes, others): (Vec<usize>, Vec<usize>) =
            of_shape.iter().partition(|n| inner_name(&inputs.tensors[**n].meta.name) == own);
        for n in namesakes.into_iter().chain(others).take(CANDIDATES_MAX) {
            if seems_cast(inputs, tensor, &inputs.tensors[n])? {
                return Ok(Some(n));
            }
        }
        Ok(None)
    };
    inputs.tensors.iter().map(source).collect()
}

/// A name without its first part: `model.w` and `master.w` are the same weight.
fn inner_name(name: &str) -> &str {
    name.split_once('.').map_or(name, |(_, inner)| inner)
}

fn seems_cast(inputs: &Inputs<'_>, half: &InputTensor, wide: &InputTensor) -> Result<bool> {
    let count = half.meta.bytes / 2;
    let run = count.min(ELEMENTS);
    let read = |tensor: &InputTensor, at: u64, width: u64| -> Result<Vec<u8>> {
        let mut bytes = vec![0; (run * width) as usize];
        let from = &inputs.files[tensor.file as usize].bytes[tensor.source];
        from.read_exact_at(&mut bytes, tensor.offset + at * width)?;
        Ok(bytes)
    };
    for place in 0..PLACES {
        let at = (count - run) / (PLACES - 1) * place;
        if !is_cast(&read(half, at, 2)?, half.layout(), &read(wide, at, 4)?) {
            return Ok(false);
        }
    }
    Ok(true)
}
