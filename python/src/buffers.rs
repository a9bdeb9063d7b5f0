//! Memory of Python as slices of Rust, while the interpreter is let go of.
//!
//! All `unsafe` of the package is here, but for the stores of `copy`. What makes it sound is said once, here: a `PyBuffer`
//! keeps its memory alive and in place until it is dropped, and whoever calls this module keeps other threads from writing
//! to memory that is read, and from touching memory that is written, until the call returns. The package does so: it hands
//! over its own staging memory, memory that nobody else has seen yet, or tensors of a caller that it keeps waiting.

use std::slice;
use std::sync::{Mutex, PoisonError};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use treering::save::{Pieces, TensorBytes};
use treering::{Error, Result};

use crate::copy;

/// Memory to read from.
pub(crate) struct Readable(PyBuffer<u8>);

/// Memory to write to.
pub(crate) struct Writable(PyBuffer<u8>);

/// Memory, or a function of an offset and a length that returns some.
#[derive(FromPyObject)]
pub(crate) enum Source {
    Memory(Readable),
    Function(Py<PyAny>),
}

/// What a save reads from.
#[derive(Debug)]
pub(crate) enum Given<'a> {
    Memory(&'a [u8]),
    Pieces(Asked<'a>),
}

/// A tensor that Python is asked for, piece by piece.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    function: &'a Py<PyAny>,
    /// What it raised first.
    raised: Mutex<Option<PyErr>>,
}

impl Source {
    pub(crate) fn given(&self) -> Given<'_> {
        match self {
            Source::Memory(memory) => Given::Memory(memory.bytes()),
            Source::Function(function) => Given::Pieces(Asked { function, raised: Mutex::default() }),
        }
    }
}

impl Given<'_> {
    /// A stretch of it, as a save takes it. Of what is asked for, all or nothing.
    pub(crate) fn stretch(&self, offset: usize, length: usize) -> Option<TensorBytes<'_>> {
        match self {
            Given::Memory(bytes) => bytes.get(offset..offset.checked_add(length)?).map(TensorBytes::Memory),
            Given::Pieces(asked) => (offset == 0).then_some(TensorBytes::Pieces(asked)),
        }
    }

    /// What Python raised when it was asked.
    pub(crate) fn raised(&self) -> Option<PyErr> {
        match self {
            Given::Memory(_) => None,
            Given::Pieces(asked) => asked.raised.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

impl Pieces for Asked<'_> {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        let answered = Python::attach(|py| -> PyResult<()> {
            let piece: Readable = self.function.call1(py, (offset, out.len()))?.extract(py)?;
            if piece.bytes().len() != out.len() {
                return Err(PyBufferError::new_err("a piece of another length than was asked for"));
            }
            out.copy_from_slice(piece.bytes());
            Ok(())
        });
        answered.map_err(|error| {
            self.raised.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            Error::invalid("a tensor", "it cannot be read")
        })
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Readable {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Readable> {
        contiguous(PyBuffer::get(&object)?).map(Readable)
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Writable {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Writable> {
        let buffer = contiguous(PyBuffer::get(&object)?)?;
        if buffer.readonly() {
            return Err(PyBufferError::new_err("memory to be written is read-only"));
        }
        Ok(Writable(buffer))
    }
}

fn contiguous(buffer: PyBuffer<u8>) -> PyResult<PyBuffer<u8>> {
    if !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err("memory with gaps"));
    }
    Ok(buffer)
}

impl Readable {
    #[expect(unsafe_code, reason = "see the module")]
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.0.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the buffer is contiguous, so it has so many bytes from there on, which live as long as it does; nobody
        // writes to them, as the module says.
        unsafe { slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), self.0.len_bytes()) }
    }
}

impl Writable {
    #[expect(unsafe_code, reason = "see the module")]
    fn bytes(&mut self) -> &mut [u8] {
        if self.0.len_bytes() == 0 {
            return &mut [];
        }
        // SAFETY: as for `Readable`, and the memory may be written; `disjoint` has seen to it that no other slice of this
        // call has any of these bytes.
        unsafe { slice::from_raw_parts_mut(self.0.buf_ptr().cast::<u8>(), self.0.len_bytes()) }
    }
}

/// The slices of all buffers, unless some memory is in two of them.
pub(crate) fn disjoint(buffers: &mut [Writable]) -> PyResult<Vec<&mut [u8]>> {
    let mut ranges: Vec<_> = buffers
        .iter()
        .filter(|buffer| buffer.0.len_bytes() > 0)
        .map(|buffer| (buffer.0.buf_ptr() as usize, buffer.0.len_bytes()))
        .collect();
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        return Err(PyBufferError::new_err("two tensors to be written share memory"));
    }
    Ok(buffers.iter_mut().map(Writable::bytes).collect())
}

/// Copies each source to its place in `into`, on several threads if it is much.
#[pyfunction]
pub(crate) fn gather(py: Python<'_>, into: Writable, sources: Vec<(usize, Readable)>) -> PyResult<()> {
    let mut into = [into];
    let mut rest = disjoint(&mut into)?.remove(0);
    let mut pieces = Vec::with_capacity(sources.len());
    let mut done = 0;
    for (offset, source) in &sources {
        let bytes = source.bytes();
        let gap = offset.checked_sub(done).filter(|gap| gap.checked_add(bytes.len()).is_some_and(|n| n <= rest.len()));
        let gap = gap.ok_or_else(|| PyBufferError::new_err("sources out of order, or too long"))?;
        let (piece, after) = std::mem::take(&mut rest).split_at_mut(gap).1.split_at_mut(bytes.len());
        pieces.push((piece, bytes));
        rest = after;
        done = offset + bytes.len();
    }
    py.detach(|| copy::all(pieces));
    Ok(())
}
