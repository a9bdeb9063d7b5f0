//! A checkpoint opened for reading.

use std::path::PathBuf;

use pyo3::prelude::*;
use treering::restore::{RestoreOptions, Window};

use crate::buffers::{Writable, disjoint};
use crate::rows::{Restored, Row};
use crate::store::call;

/// An opened checkpoint.
#[pyclass(frozen, module = "treering._native")]
pub(crate) struct Checkpoint(pub(crate) treering::restore::Checkpoint);

/// A tensor: its component, name, type, shape and length, its id, and the earlier tensor that it is tied to.
type Tensor = (String, String, String, Vec<u64>, u64, Option<String>, Option<usize>);

#[pymethods]
impl Checkpoint {
    fn row(&self) -> Row {
        self.0.info().clone().into()
    }

    fn tensors(&self) -> Vec<Tensor> {
        let each = self.0.metas().zip(self.0.ids()).zip(self.0.ties());
        each.map(|(((component, meta), id), tie)| {
            let (name, dtype) = (meta.name.clone(), meta.dtype.name().to_string());
            (component.to_string(), name, dtype, meta.shape.clone(), meta.bytes, id.map(|id| id.to_string()), tie)
        })
        .collect()
    }

    /// The values saved beside the tensors, as JSON.
    fn state(&self, py: Python<'_>) -> PyResult<Option<String>> {
        Ok(call(py, || self.0.state())?.map(|value| value.to_string()))
    }

    /// Fills memory with stretches of tensors: for each the tensor's number, the first byte, and the memory. `in_boxes`
    /// counts bytes as they are stored: box by box.
    #[pyo3(signature = (windows, *, in_boxes = false))]
    fn read(&self, py: Python<'_>, windows: Vec<(usize, u64, Writable)>, in_boxes: bool) -> PyResult<()> {
        let (places, mut buffers): (Vec<_>, Vec<_>) =
            windows.into_iter().map(|(tensor, start, buffer)| ((tensor, start), buffer)).unzip();
        let slices = disjoint(&mut buffers)?;
        let windows = places.into_iter().zip(slices);
        let windows = windows.map(|((tensor, start), bytes)| Window { tensor, start, bytes }).collect();
        call(py, || if in_boxes { self.0.read_boxes_into(windows) } else { self.0.read_into(windows) })
    }

    /// The boxes that a tensor is stored in, each with its offsets and lengths; none if it is stored as a whole.
    fn boxes(&self, tensor: usize) -> Vec<(Vec<u64>, Vec<u64>)> {
        let boxes = self.0.boxes(tensor).iter();
        boxes.map(|of| (of.offsets.clone(), of.lengths.clone())).collect()
    }

    #[pyo3(signature = (output, *, component = None, exclude = Vec::new(), max_shard_bytes = None, force = false))]
    fn restore(
        &self,
        py: Python<'_>,
        output: PathBuf,
        component: Option<String>,
        exclude: Vec<String>,
        max_shard_bytes: Option<u64>,
        force: bool,
    ) -> PyResult<Restored> {
        let options = RestoreOptions { component, exclude, max_shard_bytes, force, ..RestoreOptions::default() };
        call(py, || self.0.restore(&output, &options)).map(Restored::from)
    }
}
