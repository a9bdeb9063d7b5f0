//! Dropping components of checkpoints that stay: a new manifest root without their blocks.

use std::collections::BTreeSet;

use super::{Deadline, GcVerdict};
use crate::catalog::CheckpointRow;
use crate::error::{Error, Result};
use crate::format::entry::{Amend, Body};
use crate::id::{ChunkId, SaveId};
use crate::store::{Manifest, PackWriter, Store, encode_frame, needs_from, put_bytes};
use crate::tensor::Layout;

impl Store {
    /// Drops what the verdicts say.
    pub(super) fn thin(&self, verdicts: &[GcVerdict], deadline: Deadline) -> Result<()> {
        for verdict in verdicts.iter().filter(|verdict| !verdict.goes() && !verdict.thin.is_empty()) {
            if deadline.passed() {
                break;
            }
            self.check_stop()?;
            self.drop_components(&verdict.checkpoint, &verdict.thin)?;
        }
        Ok(())
    }

    fn drop_components(&self, row: &CheckpointRow, names: &[String]) -> Result<()> {
        let mut manifest = Manifest::open(self, row.clone())?;
        let old = manifest.row.manifest;
        manifest.drop_components(names);
        let save = SaveId(self.env().random());
        let mut packs = PackWriter::new(self, save);
        let (mut scratch, mut check, mut written) = (Default::default(), Vec::new(), BTreeSet::new());
        // Chunks that the checkpoint still needs; the old root is needed only until the new one takes its place.
        let mut kept = manifest.all_chunks()?;
        let root = put_bytes(&manifest.root.encode(), |bytes| {
            let chunk = ChunkId::of(bytes);
            if manifest.chunks.contains(chunk) {
                kept.push(chunk);
            } else if written.insert(chunk) {
                let mut frame = Vec::new();
                let info = encode_frame(chunk, bytes, Layout::Bytes, None, &mut scratch, &mut check, &mut frame)?;
                packs.put(info, &frame)?;
            }
            Ok(chunk)
        })?;
        let needs = manifest.chunks.packs_for(kept)?;
        let mut amend = Amend {
            slot: row.slot,
            manifest: root,
            packs: Vec::new(),
            needs: Default::default(),
            dropped: names.to_vec(),
            rule: "policy".into(),
        };
        let published = packs.publish(&Body::Amend(amend.clone()).encode())?;
        amend.packs = published.packs.clone();
        let written = self.append(save, 0, |catalog| {
            // Only the checkpoint that was looked at: anything else is planned again next time.
            let Some(now) = catalog.checkpoint(row.slot)?.filter(|now| now.manifest == old) else { return Ok(None) };
            amend.needs = match needs_from(catalog, Some(&now), &needs) {
                Err(Error::Stale { .. }) => return Ok(None),
                needs => needs?,
            };
            Ok(Some(Body::Amend(amend.clone())))
        })?;
        if written.is_some() {
            published.committed();
        }
        Ok(())
    }
}
