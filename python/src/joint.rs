//! A joint save, as Python sees it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use treering::save::{OnConflict, SaveOptions};
use treering::{Error, Result};

use crate::rows::{Saved, metrics};
use crate::store::{call, json};

/// A save that several processes make together, on the one that commits it.
#[pyclass(frozen, module = "treering._native")]
pub(crate) struct JointSave(Mutex<Option<treering::save::JointSave>>);

impl JointSave {
    pub(crate) fn new(joint: treering::save::JointSave) -> JointSave {
        JointSave(Mutex::new(Some(joint)))
    }

    fn take(&self) -> Result<treering::save::JointSave> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| Error::invalid("a joint save", "it has ended"))
    }
}

#[pymethods]
impl JointSave {
    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<String> {
        call(py, || {
            let joint = self.take()?;
            let id = joint.id().to_hex();
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(joint);
            Ok(id)
        })
    }

    /// Waits until all parts are stored; returns the notes of the processes. If it fails, the save is given up.
    fn wait(&self, py: Python<'_>, ranks: u32, timeout: f64) -> PyResult<Vec<String>> {
        let timeout = Duration::try_from_secs_f64(timeout).map_err(|_| PyValueError::new_err("timeout is no time"))?;
        call(py, || {
            let mut joint = self.take()?;
            let notes = joint.wait(ranks, timeout)?;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(joint);
            Ok(notes)
        })
    }

    #[pyo3(signature = (run, step, *, state, metrics, tags, note, config, provenance, parent, replace = false))]
    #[allow(clippy::too_many_arguments, reason = "each has its name in Python")]
    fn commit(
        &self,
        py: Python<'_>,
        run: String,
        step: u64,
        state: String,
        metrics: BTreeMap<String, f64>,
        tags: Vec<String>,
        note: Option<String>,
        config: Option<String>,
        provenance: Option<String>,
        parent: Option<String>,
        replace: bool,
    ) -> PyResult<Saved> {
        call(py, || {
            let options = SaveOptions {
                run,
                step,
                metrics: self::metrics(metrics),
                tags,
                note,
                state: json("the state", Some(state))?,
                config: json("the config", config)?,
                provenance: json("the provenance", provenance)?,
                parent: parent.map(|address| address.parse()).transpose()?,
                on_conflict: if replace { OnConflict::Replace } else { OnConflict::Error },
                ..SaveOptions::default()
            };
            self.take()?.commit(&options).map(Saved::from)
        })
    }

    /// What was stored for it is garbage from now on.
    fn give_up(&self, py: Python<'_>) {
        py.detach(|| drop(self.take()));
    }
}
