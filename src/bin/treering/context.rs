//! What every command is handed: where the store is, and how to speak.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use treering::store::{Durability, Options, Store};
use treering::{Error, Result};

use crate::args::{Global, When};
use crate::ui::{self, Out, Progress};

/// Where a store is looked for when nobody says.
const DEFAULT_STORE: &str = "treering-store";

/// The global flags, and the ways to print.
#[derive(Debug)]
pub(crate) struct Context {
    store: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Context {
    /// Also sets when colours are used, for the whole process.
    pub(crate) fn new(global: Global) -> Context {
        match global.color {
            When::Auto => {}
            When::Always => anstream::ColorChoice::Always.write_global(),
            When::Never => anstream::ColorChoice::Never.write_global(),
        }
        Context { store: global.store, json: global.json, quiet: global.quiet }
    }

    /// The store that exists: the one that was named, else the one in this folder.
    pub(crate) fn store_path(&self) -> Result<PathBuf> {
        let path = self.new_store_path();
        if self.store.is_none() && !path.exists() {
            return Err(Error::StoreMissing { path });
        }
        Ok(path)
    }

    /// Opens the store, with progress.
    pub(crate) fn store(&self) -> Result<Store> {
        Ok(Store::open(self.store_path()?, Options::default())?.with_monitor(self.progress()))
    }

    /// What an acknowledged save survives, in a word.
    pub(crate) fn durability(&self, store: &Store) -> &'static str {
        match store.durability() {
            Durability::Process => "process",
            Durability::Local => "local",
        }
    }

    /// Where a store is, or is to be made.
    pub(crate) fn new_store_path(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| Path::new(DEFAULT_STORE).into())
    }

    /// For journeys: progress, warnings, and ctrl-c.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::new(Progress::new(!self.quiet))
    }

    /// Standard output; call its `finish`.
    pub(crate) fn out(&self) -> Out {
        Out::stdout()
    }

    /// Prints one line to standard output.
    pub(crate) fn line(&self, line: impl fmt::Display) -> Result<()> {
        let mut out = self.out();
        out.line(line)?;
        out.finish()
    }

    /// Prints one line to standard error, unless `--quiet` or `--json`.
    pub(crate) fn note(&self, line: impl fmt::Display) {
        if !self.quiet && !self.json {
            anstream::eprintln!("{line}");
        }
    }

    /// Prints an object, with `"format": 1` before its keys.
    pub(crate) fn print_json(&self, body: &impl Serialize) -> Result<()> {
        self.line(ui::json::document(body, ui::stdout_is_terminal())?)
    }

    /// Prints the facts as JSON with `--json`, else what `people` makes of them.
    pub(crate) fn print<T: Serialize>(&self, facts: &T, people: impl FnOnce(&T, &mut Out) -> Result<()>) -> Result<()> {
        if self.json {
            return self.print_json(facts);
        }
        let mut out = self.out();
        people(facts, &mut out)?;
        out.finish()
    }
}
