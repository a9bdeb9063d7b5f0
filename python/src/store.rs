//! A store, as Python sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::Value;
use treering::catalog::Filter;
use treering::format::policy::{Policy, Rule};
use treering::gc::GcOptions;
use treering::monitor::{self, Monitor};
use treering::save::{BoxOf, Inputs, JointPart, MemoryTensor, OnConflict, SaveOptions, TensorBytes};
use treering::store::{Durability, Options};
use treering::tensor::{DType, TensorMeta};
use treering::verify::Depth;
use treering::{Error, ErrorKind, Result};

use crate::buffers::{Given, Readable, Source};
use crate::checkpoint::Checkpoint;
use crate::errors::raise;
use crate::joint::JointSave;
use crate::rows::{Collected, Row, Run, Saved, metrics};

/// An opened store.
#[pyclass(frozen, module = "treering._native")]
pub(crate) struct Store(treering::Store);

/// Lets a save under way have more threads: somebody waits for it.
#[pyclass(frozen, module = "treering._native")]
pub(crate) struct Hurry {
    monitor: Arc<monitor::Hurry>,
    helpers: usize,
}

#[pymethods]
impl Hurry {
    /// So many threads may join once it is asked for.
    #[new]
    fn new(helpers: usize) -> Hurry {
        Hurry { monitor: Arc::default(), helpers }
    }

    fn hurry(&self) {
        self.monitor.hurry(self.helpers);
    }

    /// Threads that may join by now.
    #[getter]
    fn helpers(&self) -> usize {
        self.monitor.helpers()
    }
}

/// A tensor to be saved: its component, name, type and shape, and its bytes as a part of one of the buffers.
#[derive(FromPyObject)]
struct Part(String, String, String, Vec<u64>, usize, usize, usize);

#[pymethods]
impl Store {
    #[staticmethod]
    fn create(py: Python<'_>, path: PathBuf) -> PyResult<Store> {
        call(py, || treering::Store::create(path, None, Options::default())).map(Store)
    }

    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Store> {
        call(py, || treering::Store::open(path, Options::default())).map(Store)
    }

    #[getter]
    fn root(&self) -> PathBuf {
        self.0.root().to_path_buf()
    }

    #[getter]
    fn durability(&self) -> &'static str {
        match self.0.durability() {
            Durability::Process => "process",
            Durability::Local => "local",
        }
    }

    #[pyo3(signature = (
        run, step, parts, buffers, *, state, metrics, tags, note, config, provenance, parent, threads, backfill = false,
        replace = false, before = None, hurry = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "each has its name in Python")]
    fn save(
        &self,
        py: Python<'_>,
        run: String,
        step: u64,
        parts: Vec<Part>,
        buffers: Vec<Source>,
        state: Option<String>,
        metrics: BTreeMap<String, f64>,
        tags: Vec<String>,
        note: Option<String>,
        config: Option<String>,
        provenance: Option<String>,
        parent: Option<String>,
        threads: usize,
        backfill: bool,
        replace: bool,
        before: Option<(Vec<Part>, Vec<Readable>)>,
        hurry: Option<Py<Hurry>>,
    ) -> PyResult<Saved> {
        let given: Vec<Given<'_>> = buffers.iter().map(Source::given).collect();
        let (parts_before, buffers_before) = before.unwrap_or_default();
        let bytes_before: Vec<&[u8]> = buffers_before.iter().map(Readable::bytes).collect();
        let saved = call(py, || {
            let options = SaveOptions {
                run,
                step,
                metrics: self::metrics(metrics),
                tags,
                note,
                state: json("the state", state)?,
                config: json("the config", config)?,
                provenance: json("the provenance", provenance)?,
                parent: parent.map(|address| address.parse()).transpose()?,
                backfill,
                on_conflict: if replace { OnConflict::Replace } else { OnConflict::Error },
                ..SaveOptions::default()
            };
            let before = parts_before.into_iter().map(|part| part.before(&bytes_before)).collect::<Result<_>>()?;
            let tensors = parts.into_iter().map(|part| part.tensor(&given, None)).collect::<Result<_>>()?;
            let inputs = Inputs::given(tensors)?.with_before(before);
            let store = self.0.with_threads(threads);
            let store = hurry.map(|hurry| store.with_monitor(hurry.get().monitor.clone())).unwrap_or(store);
            store.save(&inputs, &options).map(Saved::from)
        });
        saved.map_err(|error| raised(&given).unwrap_or(error))
    }

    fn begin_joint(&self, py: Python<'_>) -> PyResult<JointSave> {
        call(py, || self.0.begin_joint()).map(JointSave::new)
    }

    /// Stores one part of a joint save. `boxes` has, for each part, the shape of the whole tensor and where in it the
    /// box begins.
    #[pyo3(signature = (save, rank, ranks, run, step, parts, boxes, buffers, *, text, parent, threads))]
    #[allow(clippy::too_many_arguments, reason = "each has its name in Python")]
    fn save_part(
        &self,
        py: Python<'_>,
        save: &str,
        rank: u32,
        ranks: u32,
        run: String,
        step: u64,
        parts: Vec<Part>,
        boxes: Vec<Option<(Vec<u64>, Vec<u64>)>>,
        buffers: Vec<Source>,
        text: &str,
        parent: Option<String>,
        threads: usize,
    ) -> PyResult<()> {
        let given: Vec<Given<'_>> = buffers.iter().map(Source::given).collect();
        let saved = call(py, || {
            let parent = parent.map(|address| address.parse()).transpose()?;
            let options = SaveOptions { run, step, parent, ..SaveOptions::default() };
            let boxes = boxes.into_iter().map(|of| of.map(|(shape, offsets)| BoxOf { shape, offsets }));
            let tensors = parts.into_iter().zip(boxes).map(|(part, of)| part.tensor(&given, of));
            let inputs = Inputs::given(tensors.collect::<Result<_>>()?)?;
            let part = JointPart { save: save.parse()?, rank, ranks };
            self.0.with_threads(threads).save_part(&part, &inputs, &options, text).map(|_| ())
        });
        saved.map_err(|error| raised(&given).unwrap_or(error))
    }

    fn checkpoint(&self, py: Python<'_>, address: &str) -> PyResult<Checkpoint> {
        call(py, || self.0.checkpoint(&address.parse()?)).map(Checkpoint)
    }

    fn find(&self, py: Python<'_>, address: &str) -> PyResult<Row> {
        call(py, || self.0.find(&address.parse()?)).map(Row::from)
    }

    #[pyo3(signature = (run, superseded = false))]
    fn log(&self, py: Python<'_>, run: Option<String>, superseded: bool) -> PyResult<Vec<Row>> {
        let rows = call(py, || self.0.log(&Filter { run, superseded, ..Filter::default() }))?;
        Ok(rows.into_iter().map(Row::from).collect())
    }

    #[pyo3(signature = (run, metric, mode = None, count = 1))]
    fn best(&self, py: Python<'_>, run: &str, metric: &str, mode: Option<&str>, count: u64) -> PyResult<Vec<Row>> {
        let rows = call(py, || self.0.best(run, metric, mode.map(str::parse).transpose()?, count))?;
        Ok(rows.into_iter().map(Row::from).collect())
    }

    fn runs(&self, py: Python<'_>) -> PyResult<Vec<Run>> {
        Ok(call(py, || self.0.runs())?.into_iter().map(Run::from).collect())
    }

    /// The run, or None.
    fn run(&self, py: Python<'_>, name: &str) -> PyResult<Option<Run>> {
        let found = call(py, || match self.0.run(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        })?;
        Ok(found.map(Run::from))
    }

    fn set_policy(&self, py: Python<'_>, run: &str, rules: Vec<String>) -> PyResult<()> {
        call(py, || {
            let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse()).collect::<Result<_>>()?;
            self.0.set_policy(run, &rules.into_iter().collect::<Policy>())
        })
    }

    fn set_mode(&self, py: Python<'_>, run: &str, metric: &str, mode: &str) -> PyResult<()> {
        call(py, || self.0.set_mode(run, metric, mode.parse()?))
    }

    fn annotate(
        &self,
        py: Python<'_>,
        address: &str,
        metrics: BTreeMap<String, f64>,
        note: Option<String>,
    ) -> PyResult<Row> {
        call(py, || self.0.annotate(&address.parse()?, self::metrics(metrics), note)).map(Row::from)
    }

    fn tag(&self, py: Python<'_>, address: &str, add: Vec<String>, remove: Vec<String>) -> PyResult<Row> {
        call(py, || self.0.tag(&address.parse()?, &add, &remove)).map(Row::from)
    }

    fn forget(&self, py: Python<'_>, slots: Vec<u64>) -> PyResult<()> {
        call(py, || self.0.forget(&slots)).map(|_| ())
    }

    #[pyo3(signature = (*, run = None, dry_run = false, max_seconds = None, repack_above = None, grace_seconds = None,
                        threads = None))]
    #[allow(clippy::too_many_arguments, reason = "each has its name in Python")]
    fn gc(
        &self,
        py: Python<'_>,
        run: Option<String>,
        dry_run: bool,
        max_seconds: Option<f64>,
        repack_above: Option<f64>,
        grace_seconds: Option<f64>,
        threads: Option<usize>,
    ) -> PyResult<Collected> {
        let time = |seconds: Option<f64>, name: &str| {
            let time = seconds.map(Duration::try_from_secs_f64).transpose();
            time.map_err(|_| PyValueError::new_err(format!("{name} is no time")))
        };
        let (max_time, grace) = (time(max_seconds, "max_seconds")?, time(grace_seconds, "grace_seconds")?);
        let options = GcOptions { run, dry_run, max_time, repack_above, grace, ..GcOptions::default() };
        let store = self.0.with_threads(threads.unwrap_or(self.0.options().threads));
        call(py, || store.gc(&options)).map(Collected::from)
    }

    /// What is damaged, in words; empty: the store is sound.
    fn verify(&self, py: Python<'_>, deep: bool) -> PyResult<Vec<String>> {
        let report = call(py, || self.0.verify(if deep { Depth::Deep } else { Depth::default() }))?;
        let affected = report.affected.iter();
        let lost = affected.map(|one| format!("{} has lost {}", one.checkpoint.address(), one.lost.join(", ")));
        Ok(report.damage.iter().map(|damage| format!("{}: {}", damage.object, damage.why)).chain(lost).collect())
    }
}

/// What Python raised when it was asked for a tensor: it says more than that the tensor could not be read.
fn raised(given: &[Given<'_>]) -> Option<PyErr> {
    given.iter().find_map(Given::raised)
}

/// A tensor with its component and what it is a box of.
type Tensor<'a> = (Option<String>, TensorMeta, TensorBytes<'a>, Option<BoxOf>);

impl Part {
    fn tensor<'a>(self, given: &'a [Given<'_>], of: Option<BoxOf>) -> Result<Tensor<'a>> {
        let Part(component, name, dtype, shape, buffer, offset, length) = self;
        let bytes = given.get(buffer).and_then(|all| all.stretch(offset, length));
        let bytes = bytes.ok_or_else(|| Error::Bug(format!("tensor {name} outside of its memory")))?;
        let meta = TensorMeta { name, dtype: DType::new(dtype), shape, bytes: length as u64 };
        Ok((Some(component), meta, bytes, of))
    }

    fn before<'a>(self, buffers: &[&'a [u8]]) -> Result<(Option<String>, MemoryTensor<'a>)> {
        let Part(component, name, dtype, shape, buffer, offset, length) = self;
        let bytes = buffers.get(buffer).and_then(|all| all.get(offset..offset.checked_add(length)?));
        let bytes = bytes.ok_or_else(|| Error::Bug(format!("tensor {name} outside of its memory")))?;
        let meta = TensorMeta { name, dtype: DType::new(dtype), shape, bytes: length as u64 };
        Ok((Some(component), MemoryTensor { meta, bytes }))
    }
}

/// Calls the library without the interpreter.
pub(crate) fn call<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| raise(py, &error))
}

pub(crate) fn json(what: &str, text: Option<String>) -> Result<Option<Value>> {
    let parsed = text.map(|text| serde_json::from_str(&text)).transpose();
    parsed.map_err(|error| Error::invalid(what, error.to_string()))
}
