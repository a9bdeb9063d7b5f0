//! The checkpoint that a save is compared with: its parent, or else the newest that looks the same.
//!
//! Where it has a tensor of the same name, type and shape, that tensor's cuts are taken over, so that every chunk meets
//! its counterpart; where the shape differs, its chunks are looked for at both ends. A model that was wrapped or unwrapped
//! in between has other names: what wrappers put in front, `module` and `_orig_mod`, is looked through.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;

use super::ingest::InputTensor;
use crate::catalog::CheckpointRow;
use crate::error::Result;
use crate::format::manifest::{SchemaTensor, Stored};
use crate::store::{Manifest, Store};
use crate::tensor::boxes::{Runs, TensorBox};

/// What a save finds of a tensor, or of a box of it, in another checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counterpart {
    pub(super) stored: Stored,
    /// Its place in the schema, if it is a tensor.
    pub(super) number: Option<usize>,
    /// Where in it the same bytes begin, if it has the same shape.
    pub(super) begin: Option<u64>,
}

/// What a save finds in another checkpoint.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) manifest: Manifest,
    /// Each tensor of its schema, as it is stored; `None` in a dropped component.
    tensors: Vec<Option<Stored>>,
    /// Where each is, by component and name: made when one is not at the place that it has among the inputs.
    by_name: OnceCell<HashMap<(String, String), usize>>,
    /// The same by the names without wrappers: made when a name is not found as it is.
    by_bare_name: OnceCell<HashMap<String, usize>>,
}

impl Reference {
    pub(super) fn open(store: &Store, row: CheckpointRow) -> Result<Reference> {
        let manifest = Manifest::open(store, row)?;
        let tensors = manifest.tensors()?;
        Ok(Reference { manifest, tensors, by_name: OnceCell::new(), by_bare_name: OnceCell::new() })
    }

    /// What it has of an input's tensor, by its name and type; `number` is the tensor's place among the inputs.
    pub(super) fn tensor(&self, number: usize, tensor: &InputTensor) -> Option<Counterpart> {
        let at = self.find(number, &tensor.component, &tensor.meta.name)?;
        let theirs = self.manifest.schema.tensors.get(at)?;
        let stored = (*self.tensors.get(at)?)?;
        if theirs.meta.dtype != tensor.meta.dtype {
            None
        } else if theirs.meta.shape != tensor.whole_shape() {
            Some(Counterpart { stored, number: Some(at), begin: None })
        } else {
            Some(Counterpart { stored, number: Some(at), begin: Some(begin_of(theirs, tensor)?) })
        }
    }

    /// Where a tensor is. Most checkpoints have the same ones as their parents, in the same order.
    fn find(&self, number: usize, component: &str, name: &str) -> Option<usize> {
        let there = self.manifest.schema.tensors.get(number);
        if there.is_some_and(|there| there.meta.name == name && self.component_of(there) == component) {
            return Some(number);
        }
        let exact = self.names().get(&(component.to_string(), name.to_string()));
        exact.or_else(|| self.bare_names().get(bare(component, name).as_ref())).copied()
    }

    fn component_of(&self, tensor: &SchemaTensor) -> &str {
        &self.manifest.schema.components[tensor.component as usize]
    }

    fn names(&self) -> &HashMap<(String, String), usize> {
        self.by_name.get_or_init(|| {
            let key = |t: &SchemaTensor| (self.component_of(t).to_string(), t.meta.name.clone());
            self.manifest.schema.tensors.iter().enumerate().map(|(at, tensor)| (key(tensor), at)).collect()
        })
    }

    fn bare_names(&self) -> &HashMap<String, usize> {
        self.by_bare_name.get_or_init(|| {
            let names = self.names().iter().map(|((component, name), &at)| (bare(component, name).into_owned(), at));
            let mut names: Vec<_> = names.collect();
            // Of names that are the same without wrappers, the first.
            names.sort_unstable_by_key(|(_, at)| std::cmp::Reverse(*at));
            names.into_iter().collect()
        })
    }

    /// The header of its file of this name.
    pub(super) fn header(&self, name: &str) -> Option<Stored> {
        self.manifest.root.files.iter().find(|file| file.name == name)?.header
    }

    /// Its side file of this name.
    pub(super) fn side_file(&self, name: &str) -> Option<Stored> {
        self.manifest.root.side_files.iter().find(|(other, _)| other == name).map(|(_, stored)| *stored)
    }
}

/// Where among the stored bytes of a tensor those of an input begin, if they lie there without a gap.
fn begin_of(theirs: &SchemaTensor, tensor: &InputTensor) -> Option<u64> {
    if theirs.boxes.is_empty() && tensor.of.is_none() {
        return Some(0);
    }
    let place = tensor.place();
    if theirs.boxes.is_empty() {
        let whole = place == TensorBox::whole(&theirs.meta.shape);
        return if whole { Some(0) } else { Some(Runs::new(&place, &theirs.meta)?.stretch()?.start) };
    }
    let mut begin = 0;
    for of in &theirs.boxes {
        if *of == place {
            return Some(begin);
        }
        begin += Runs::new(of, &theirs.meta)?.bytes();
    }
    None
}

/// A name without the segments of wrappers, which begins with its component.
fn bare<'a>(component: &str, name: &'a str) -> Cow<'a, str> {
    let wrapper = |segment: &&str| matches!(*segment, "module" | "_orig_mod");
    let within = name.strip_prefix(component).is_some_and(|rest| rest.starts_with('.'));
    if within && !name.split('.').any(|segment| wrapper(&segment)) {
        return Cow::Borrowed(name);
    }
    let first = if within { None } else { Some(component) };
    let segments = name.split('.').filter(|segment| !wrapper(segment));
    Cow::Owned(first.into_iter().chain(segments).collect::<Vec<_>>().join("."))
}
