//! The checkpoint that a save is compared with: its parent, or else the newest that looks the same.
//!
//! Where it has a tensor of the same name, type and shape, that tensor's cuts are taken over, so that every chunk meets
//! its counterpart; where the shape differs, its chunks are looked for at both ends.

use std::collections::HashMap;

use crate::catalog::CheckpointRow;
use crate::error::Result;
use crate::format::manifest::Stored;
use crate::store::{Manifest, Store};
use crate::tensor::TensorMeta;

/// What a save finds in another checkpoint.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) manifest: Manifest,
    /// Each tensor of its schema, as it is stored; `None` in a dropped component.
    tensors: Vec<Option<Stored>>,
    by_name: HashMap<(String, String), usize>,
}

impl Reference {
    pub(super) fn open(store: &Store, row: CheckpointRow) -> Result<Reference> {
        let manifest = Manifest::open(store, row)?;
        let tensors = manifest.tensors()?;
        let key = |t: &crate::format::manifest::SchemaTensor| {
            (manifest.schema.components[t.component as usize].clone(), t.meta.name.clone())
        };
        let by_name = manifest.schema.tensors.iter().enumerate().map(|(i, t)| (key(t), i)).collect();
        Ok(Reference { manifest, tensors, by_name })
    }

    /// Its tensor of this name and type: how it is stored, and whether the shape is the same.
    pub(super) fn tensor(&self, component: &str, meta: &TensorMeta) -> Option<(Stored, bool)> {
        let &at = self.by_name.get(&(component.to_string(), meta.name.clone()))?;
        let theirs = &self.manifest.schema.tensors.get(at)?.meta;
        let stored = (*self.tensors.get(at)?)?;
        (theirs.dtype == meta.dtype).then_some((stored, theirs.shape == meta.shape))
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
