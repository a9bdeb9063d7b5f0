//! Tensors that come from memory and go back into memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use treering::restore::Window;
use treering::save::{BoxOf, Inputs, JointPart, MemoryTensor, Pieces, TensorBytes};
use treering::store::{Options, Store};
use treering::tensor::{DType, TensorMeta};
use treering::{Error, ErrorKind, Result};

use crate::helpers::{Place, Tensor, at, floats, options};

fn inputs(tensors: &[Tensor]) -> Inputs<'_> {
    Inputs::tensors(tensors.iter().map(|tensor| (Some("model".into()), memory(tensor, &tensor.name))).collect())
        .unwrap()
}

fn memory<'a>(tensor: &'a Tensor, name: &str) -> MemoryTensor<'a> {
    let dtype = DType::new(tensor.dtype);
    let bytes = tensor.bytes.len() as u64;
    let meta = TensorMeta { name: name.into(), dtype, shape: tensor.shape.clone(), bytes };
    MemoryTensor { meta, bytes: &tensor.bytes }
}

/// More than is put in order at a time, within a small budget.
#[test]
fn a_tensor_in_boxes_is_put_in_order_stretch_by_stretch() {
    let place = Place::new();
    let whole = Tensor { shape: vec![1500, 2000], ..floats("w", 3_000_000, 1) };
    let mut joint = place.store.begin_joint().unwrap();
    for rank in 0..2 {
        let half: Vec<u8> = whole.bytes.chunks_exact(4000).skip(rank as usize).step_by(2).flatten().copied().collect();
        let tensor = Tensor { shape: vec![1500, 1000], bytes: half, ..whole.clone() };
        let of = BoxOf { shape: whole.shape.clone(), offsets: vec![0, 1000 * u64::from(rank)] };
        let inputs = Inputs::shares(vec![(Some("model".into()), memory(&tensor, "w"), Some(of))]).unwrap();
        let part = JointPart { save: joint.id(), rank, ranks: 2 };
        place.store.save_part(&part, &inputs, &options("r", 1), "").unwrap();
    }
    joint.wait(2, std::time::Duration::ZERO).unwrap();
    joint.commit(&options("r", 1)).unwrap();

    let small = Options { memory_bytes: 1, threads: 2, ..Options::default() };
    let checkpoint = Store::open(place.store.root(), small).unwrap().checkpoint(&at("r@1")).unwrap();
    assert_eq!(checkpoint.boxes(0).len(), 2);
    let mut streamed = Vec::new();
    checkpoint.read_tensor("w", &mut streamed).unwrap();
    assert!(streamed == whole.bytes);
    let (start, mut part) = (2_000_002, vec![0; 9_000_001]);
    checkpoint.read_into(vec![Window { tensor: 0, start, bytes: &mut part }]).unwrap();
    assert!(part == whole.bytes[start as usize..][..part.len()]);
}

#[test]
fn many_tensors_are_read_at_once_into_memory() {
    let place = Place::new();
    let tensors = [floats("a", 1_500_000, 1), floats("b", 1, 2), floats("c", 0, 3), floats("d", 300_000, 4)];
    place.store.save(&inputs(&tensors), &options("r", 1)).unwrap();
    for threads in [1, 3] {
        let checkpoint = place.store.with_threads(threads).checkpoint(&"r@1".parse().unwrap()).unwrap();
        let mut read: Vec<Vec<u8>> = tensors.iter().map(|tensor| vec![0xff; tensor.bytes.len()]).collect();
        let windows = read.iter_mut().enumerate();
        let windows = windows.map(|(tensor, bytes)| Window { tensor, start: 0, bytes }).collect();
        checkpoint.read_into(windows).unwrap();
        assert!(read.iter().zip(&tensors).all(|(read, tensor)| *read == tensor.bytes));
    }
}

/// A tensor that is asked for, and the longest piece that was; from some place on it cannot be had.
#[derive(Debug)]
struct Elsewhere {
    tensor: Tensor,
    longest: AtomicUsize,
    lost_from: u64,
}

impl Elsewhere {
    fn new(tensor: Tensor) -> Elsewhere {
        Elsewhere { tensor, longest: AtomicUsize::new(0), lost_from: u64::MAX }
    }

    fn given<'a>(&'a self, name: &str) -> (Option<String>, TensorMeta, TensorBytes<'a>) {
        (None, memory(&self.tensor, name).meta, TensorBytes::Pieces(self))
    }
}

impl Pieces for Elsewhere {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        self.longest.fetch_max(out.len(), Ordering::Relaxed);
        if offset + out.len() as u64 > self.lost_from {
            return Err(Error::Interrupted);
        }
        out.copy_from_slice(&self.tensor.bytes[offset as usize..][..out.len()]);
        Ok(())
    }
}

fn save_given(place: &Place, step: u64, given: Vec<(Option<String>, TensorMeta, TensorBytes<'_>)>) -> Result<u64> {
    let given = given.into_iter().map(|(component, meta, bytes)| (component, meta, bytes, None)).collect();
    place.store.save(&Inputs::given(given)?, &options("r", step)).map(|report| report.sizes.encoded)
}

#[test]
fn a_tensor_that_is_asked_for_piece_by_piece_is_stored_as_one_in_memory() {
    let tensors = [floats("model.a", 3_000_000, 1), floats("model.none", 0, 2), floats("model.b", 10, 3)];
    let others = tensors.clone().map(Elsewhere::new);
    let place = Place::new();
    let mut given: Vec<_> = others.iter().map(|tensor| tensor.given(&tensor.tensor.name)).collect();
    given.push(others[0].given("model.tie"));
    save_given(&place, 1, given).unwrap();
    let longest = others[0].longest.load(Ordering::Relaxed);
    assert!(longest <= 4 << 20, "{longest} bytes were asked for at once");

    let tie = memory(&tensors[0], "model.tie");
    let all = tensors.iter().map(|tensor| memory(tensor, &tensor.name)).chain([tie]);
    let in_memory = all.map(|tensor| (None, tensor.meta, TensorBytes::Memory(tensor.bytes))).collect();
    assert_eq!(save_given(&place, 2, in_memory).unwrap(), 0);
    let checkpoint = place.store.checkpoint(&at("r@1")).unwrap();
    assert_eq!(checkpoint.ties().flatten().count(), 1);
    for tensor in &tensors {
        let mut bytes = Vec::new();
        checkpoint.read_tensor(&tensor.name, &mut bytes).unwrap();
        assert!(bytes == tensor.bytes, "{}", tensor.name);
    }
    let ids =
        |address| place.store.checkpoint(&at(address)).unwrap().ids().map(|id| id.map(|id| id.to_string())).collect();
    let ids: [Vec<Option<String>>; 2] = ["r@1", "r@2"].map(ids);
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn a_piece_that_cannot_be_had_is_no_checkpoint() {
    let place = Place::new();
    let broken = Elsewhere { lost_from: 11_000_000, ..Elsewhere::new(floats("model.a", 3_000_000, 1)) };
    let failed = save_given(&place, 1, vec![broken.given("model.a")]).unwrap_err();
    assert!(matches!(failed, Error::Interrupted), "{failed}");
    assert!(place.store.checkpoint(&at("r@1")).is_err());
    save_given(&place, 1, vec![Elsewhere::new(broken.tensor).given("model.a")]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_stretch_of_a_tensor_can_be_read(stretches in prop::collection::vec((0u64..6_000_000, 0usize..2_000_000), 1..4)) {
        thread_local! {
            static SAVED: (Place, Tensor) = {
                let (place, tensor) = (Place::new(), floats("a", 1_500_000, 1));
                place.store.save(&inputs(std::slice::from_ref(&tensor)), &options("r", 1)).unwrap();
                (place, tensor)
            };
        }
        SAVED.with(|(place, tensor)| {
            let all = tensor.bytes.len();
            let fit = |start: u64, length: usize| length.min(all - start as usize);
            let mut read: Vec<_> = stretches.iter().map(|&(start, length)| vec![0xff; fit(start, length)]).collect();
            let each = read.iter_mut().zip(&stretches);
            let windows = each.map(|(bytes, &(start, _))| Window { tensor: 0, start, bytes }).collect();
            place.store.checkpoint(&"r@1".parse().unwrap()).unwrap().read_into(windows).unwrap();
            for (read, &(start, _)) in read.iter().zip(&stretches) {
                assert!(read[..] == tensor.bytes[start as usize..][..read.len()]);
            }
        });
    }
}

#[test]
fn a_window_outside_of_its_tensor_is_refused() {
    let place = Place::new();
    place.store.save(&inputs(&[floats("a", 10, 1)]), &options("r", 1)).unwrap();
    let checkpoint = place.store.checkpoint(&"r@1".parse().unwrap()).unwrap();
    for (tensor, start, length, kind) in [
        (0, 1, 40, ErrorKind::Invalid),
        (0, 41, 0, ErrorKind::Invalid),
        (0, u64::MAX, 1, ErrorKind::Invalid),
        (1, 0, 1, ErrorKind::NotFound),
    ] {
        let mut bytes = vec![0; length];
        let error = checkpoint.read_into(vec![Window { tensor, start, bytes: &mut bytes }]).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn tensors_of_the_same_memory_are_tied() {
    let place = Place::new();
    let (shared, equal) = (floats("embed", 50_000, 1), floats("other", 50_000, 1));
    let tensors = vec![
        (Some("model".into()), memory(&shared, "embed")),
        (Some("model".into()), memory(&equal, "other")),
        (Some("model".into()), memory(&shared, "head")),
    ];
    let report = place.store.save(&Inputs::tensors(tensors).unwrap(), &options("r", 1)).unwrap();
    assert_eq!(report.sizes.encoded, 200_000);
    let checkpoint = place.reopened().checkpoint(&"r@1".parse().unwrap()).unwrap();
    assert_eq!(checkpoint.ties().collect::<Vec<_>>(), [None, None, Some(0)]);
    let ids: Vec<_> = checkpoint.ids().collect();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]));
}
