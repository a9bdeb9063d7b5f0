//! What the tests share: a store in a temporary folder, and checkpoints to put into it.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use treering::env::{Env, Source, Time};
use treering::restore::RestoreOptions;
use treering::save::{Inputs, SaveOptions, SaveReport};
use treering::store::{Options, Store};

/// A store in a folder of its own.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) store: Store,
}

impl Place {
    #[must_use]
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().join("store"), None, Options::default()).unwrap();
        Place { folder, store }
    }

    #[must_use]
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Opens the store again, as another process would.
    #[must_use]
    pub(crate) fn reopened(&self) -> Store {
        Store::open(self.store.root(), Options::default()).unwrap()
    }

    /// Writes a safetensors file.
    #[must_use]
    pub(crate) fn file(&self, name: &str, tensors: &[Tensor]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, file_bytes(tensors)).unwrap();
        path
    }

    #[track_caller]
    pub(crate) fn save(&self, run: &str, step: u64, path: &Path) -> SaveReport {
        self.save_with(path, &options(run, step)).unwrap()
    }

    pub(crate) fn save_with(&self, path: &Path, options: &SaveOptions) -> treering::Result<SaveReport> {
        self.store.save(&Inputs::paths(&[(None, path.to_path_buf())], false)?, options)
    }

    /// The restored output must be the same file, or folder, as the original.
    #[track_caller]
    pub(crate) fn assert_restores(&self, address: &str, original: &Path) {
        let out = tempfile::tempdir_in(self.folder.path()).unwrap();
        let output = out.path().join("out");
        let store = self.reopened();
        let report = store.restore(&address.parse().unwrap(), &output, &RestoreOptions::default()).unwrap();
        assert!(report.identical);
        assert_same(original, &output);
    }
}

#[must_use]
pub(crate) fn options(run: &str, step: u64) -> SaveOptions {
    SaveOptions { run: run.into(), step, ..SaveOptions::default() }
}

#[track_caller]
pub(crate) fn assert_same(a: &Path, b: &Path) {
    if a.is_dir() {
        let names = |folder: &Path| {
            let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(a), names(b));
        names(a).iter().for_each(|name| assert_same(&a.join(name), &b.join(name)));
    } else {
        assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "{} and {} differ", a.display(), b.display());
    }
}

/// A tensor of a test file.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// Noise that looks like trained weights: the same for the same seed.
#[must_use]
pub(crate) fn floats(name: &str, count: usize, seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let bytes = (0..count).flat_map(|_| ((next() + next() + next()) * 0.04).to_le_bytes()).collect();
    Tensor { name: name.into(), dtype: "F32", shape: vec![count as u64], bytes }
}

/// What a training saves at a step: weights that drift, their 16-bit copy, and a table of which little changes. All but
/// the first step of a run is stored as differences, of every kind.
pub(crate) fn trained(step: u64) -> Vec<Tensor> {
    const WEIGHTS: usize = 500;
    let mut weights = numbers(&floats("", WEIGHTS, 1));
    for step in 1..=step {
        weights.iter_mut().zip(numbers(&floats("", WEIGHTS, 100 + step))).for_each(|(weight, by)| *weight += 1e-3 * by);
    }
    let mut table = floats("model.table", 60, 2);
    for row in 0..step as usize {
        table.bytes[4 * row + 1] ^= 0x55;
    }
    let rounded = |weight: &f32| (weight.to_bits() + 0x7fff + (weight.to_bits() >> 16 & 1)) >> 16;
    let halves = weights.iter().flat_map(|weight| (rounded(weight) as u16).to_le_bytes()).collect();
    let shape = vec![WEIGHTS as u64];
    let wide = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    vec![
        Tensor { name: "model.w".into(), dtype: "BF16", shape: shape.clone(), bytes: halves },
        table,
        Tensor { name: "optimizer.master.w".into(), dtype: "F32", shape, bytes: wide },
    ]
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// The bytes of a safetensors file.
#[must_use]
pub(crate) fn file_bytes(tensors: &[Tensor]) -> Vec<u8> {
    let metas: Vec<treering::tensor::TensorMeta> = tensors
        .iter()
        .map(|t| treering::tensor::TensorMeta {
            name: t.name.clone(),
            dtype: treering::tensor::DType::new(t.dtype),
            shape: t.shape.clone(),
            bytes: t.bytes.len() as u64,
        })
        .collect();
    let mut file = treering::format::safetensors::write_header(&metas, &[("format".into(), "pt".into())]);
    tensors.iter().for_each(|t| file.extend_from_slice(&t.bytes));
    file
}

impl Place {
    #[track_caller]
    pub(crate) fn forget(&self, address: &str) {
        let row = self.store.find(&at(address)).unwrap();
        assert_eq!(self.store.forget(&[row.slot]).unwrap().len(), 1);
    }

    #[track_caller]
    pub(crate) fn gc(&self) -> treering::gc::GcReport {
        self.store.gc(&treering::gc::GcOptions::default()).unwrap()
    }

    /// Sets the policy of a run by its rules, as people write them.
    #[track_caller]
    pub(crate) fn policy(&self, run: &str, rules: &[&str]) {
        let policy = rules.iter().map(|rule| rule.parse::<treering::format::policy::Rule>().unwrap()).collect();
        self.store.set_policy(run, &policy).unwrap();
    }

    /// The files of the packs that lie in the store, sorted.
    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        files_below(&self.store.root().join("packs"))
    }

    /// Bytes of packs and log.
    pub(crate) fn bytes(&self) -> u64 {
        let log = files_below(&self.store.root().join("log"));
        self.packs().iter().chain(&log).map(|path| std::fs::metadata(path).unwrap().len()).sum()
    }

    pub(crate) fn entry(&self, slot: u64) -> PathBuf {
        self.store.root().join(format!("log/{slot:020}"))
    }

    pub(crate) fn delete_catalog(&self) {
        treering::catalog::Catalog::remove(&self.store.root().join("catalog.sqlite"));
    }
}

#[track_caller]
pub(crate) fn at(address: &str) -> treering::store::Address {
    address.parse().unwrap()
}

/// All files below a folder, sorted.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

pub(crate) fn metrics(values: &[(&str, f64)]) -> treering::format::entry::Metrics {
    values.iter().map(|&(name, value)| (name.to_string(), treering::format::entry::Number(value))).collect()
}

/// The time of a day and an hour from now, for what waits a day.
#[must_use]
pub(crate) fn hours_later(hours: u64) -> Env {
    #[derive(Debug)]
    struct Later(Env, u64);

    impl Source for Later {
        fn now(&self) -> Time {
            self.0.now().plus_secs(self.1 * 3600)
        }

        fn fill(&self, out: &mut [u8]) {
            out.chunks_mut(16).for_each(|some| some.copy_from_slice(&self.0.random()[..some.len()]));
        }
    }

    Env::new(Later(Env::system(), hours))
}
