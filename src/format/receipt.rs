//! What one process of a joint save has stored: how the process that commits learns of it.
//!
//! ```text
//! receipt  JSON, one object · BLAKE3 of it, 32 bytes
//! ```
//! A receipt lies at `parts/SAVE/RANK` from when all that it names is durable until the save is committed or given up. It
//! is no part of the store's history: without the save that waits for it, it means nothing.

use serde::{Deserialize, Serialize};

use crate::chunk;
use crate::error::{Error, Result};
use crate::format::entry::{NewPack, Sizes};
use crate::format::names;
use crate::id::{ChunkId, Hash, PackId, SaveId};
use crate::tensor::TensorMeta;
use crate::tensor::boxes::{Runs, TensorBox};

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The save: each attempt has its own.
    pub save: SaveId,
    /// Which of the processes.
    pub rank: u32,
    /// How many processes there are.
    pub ranks: u32,
    /// The run.
    pub run: String,
    /// The step.
    pub step: u64,
    /// What the part cost.
    pub sizes: Sizes,
    /// The packs that it brings.
    pub packs: Vec<NewPack>,
    /// Packs of other saves that it needs.
    pub needs: Vec<PackId>,
    /// What it has of tensors.
    pub tensors: Vec<Share>,
    /// What the process says beside, as text: for whoever commits.
    pub note: String,
}

/// A box of a tensor, or all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The component.
    pub component: String,
    /// The tensor's name.
    pub name: String,
    /// Its type.
    pub dtype: String,
    /// The shape of the whole tensor.
    pub shape: Vec<u64>,
    /// Its length in bytes.
    pub bytes: u64,
    /// Where in the whole tensor the box begins, in each dimension.
    pub offsets: Vec<u64>,
    /// Its length in each dimension.
    pub lengths: Vec<u64>,
    /// The chunks of its bytes, in row-major order.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl Receipt {
    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("plain values");
        let hash = Hash::of(&bytes);
        bytes.extend(hash.0);
        bytes
    }

    /// Reads what [`Receipt::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Receipt> {
        let damaged = |why: String| Error::damaged("a receipt", why);
        let (json, hash) = bytes.split_last_chunk::<32>().ok_or_else(|| damaged("it is too short".into()))?;
        if Hash::of(json).0 != *hash {
            return Err(damaged("it is not what its hash says".into()));
        }
        let receipt: Receipt = serde_json::from_slice(json).map_err(|e| damaged(e.to_string()))?;
        names::check_run(&receipt.run)?;
        match receipt.tensors.iter().find(|share| !share.is_sound()) {
            Some(share) => Err(damaged(format!("tensor {} makes no sense", names::printable(&share.name)))),
            None => Ok(receipt),
        }
    }
}

impl Share {
    /// The tensor that this is of.
    pub fn meta(&self) -> TensorMeta {
        let dtype = crate::tensor::DType::new(&self.dtype);
        TensorMeta { name: self.name.clone(), dtype, shape: self.shape.clone(), bytes: self.bytes }
    }

    /// Which box of it this is.
    pub fn place(&self) -> TensorBox {
        TensorBox { offsets: self.offsets.clone(), lengths: self.lengths.clone() }
    }

    fn is_sound(&self) -> bool {
        let named = names::check_component(&self.component).is_ok() && names::check_tensor(&self.name).is_ok();
        let fits = |(_, length): &(ChunkId, u32)| *length > 0 && *length as usize <= chunk::MAX;
        let bytes: u64 = self.chunks.iter().map(|(_, length)| u64::from(*length)).sum();
        let (place, meta) = (self.place(), self.meta());
        // All of a tensor whose type is not known has no runs.
        let filled = match place == TensorBox::whole(&self.shape) {
            true => bytes == self.bytes,
            false => Runs::new(&place, &meta).is_some_and(|runs| runs.bytes() == bytes),
        };
        named && meta.fits() && self.chunks.iter().all(fits) && filled
    }
}
