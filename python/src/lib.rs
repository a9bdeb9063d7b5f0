//! The extension module of the Python package: thin. A function here converts, lets go of the interpreter, calls the
//! library, and maps the error. What a tensor or an optimizer is, Python knows.

mod buffers;
mod checkpoint;
mod copy;
mod errors;
mod joint;
mod rows;
mod store;

use std::ffi::OsString;
use std::process::ExitCode;

use pyo3::prelude::*;

/// The extension module.
#[pymodule(gil_used = true)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<store::Store>()?;
    module.add_class::<store::Hurry>()?;
    module.add_class::<checkpoint::Checkpoint>()?;
    module.add_class::<joint::JointSave>()?;
    module.add_function(wrap_pyfunction!(buffers::gather, module)?)?;
    module.add_function(wrap_pyfunction!(cores, module)?)?;
    module.add_function(wrap_pyfunction!(command_line, module)?)
}

/// Cores that this process may use, by its affinity and its cgroup.
#[pyfunction]
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Runs the command line and returns its exit code. Once in a process.
#[pyfunction]
fn command_line(py: Python<'_>, typed: Vec<OsString>) -> u8 {
    let code = py.detach(|| treering_cli::run(typed));
    (0..=u8::MAX).find(|&n| ExitCode::from(n) == code).unwrap_or(1)
}
