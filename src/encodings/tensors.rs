//! Why the tensors of a checkpoint are stored as they are.
//!
//! No reason is stored. What is said here follows from what is: the frames, the save that wrote each, and the kept
//! checkpoints that this one continues. What does not follow from that is left out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use crate::catalog::{CheckpointRow, Status};
use crate::codec;
use crate::error::{Error, Result};
use crate::format::manifest::{Recipe, SchemaTensor, Stored};
use crate::id::{ChunkId, SaveId};
use crate::restore::Checkpoint;
use crate::store::{ChunkTool, Store};
use crate::tensor::TensorMeta;

/// Checkpoints that are opened to explain one, at most: each takes the reading of a manifest.
const LOOK_BACK_MAX: usize = 64;

/// Chunks of a tensor that are encoded the same way for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// How many.
    pub chunks: u64,
    /// The word for their codec.
    pub encoding: &'static str,
    /// What they are differences to.
    pub base: Option<Origin>,
    /// Frames to decode before one of them, at most.
    pub depth: u8,
    /// Why so, where that can be known.
    pub why: Option<Why>,
}

/// Whose chunk a base is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The same tensor's, in this checkpoint.
    Checkpoint(String),
    /// This tensor's, in the same checkpoint.
    Tensor(String),
    /// Some save's before it, which is not kept or too long ago to look for.
    Older,
}

/// Why a chunk is stored as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The tensor has had it since this kept checkpoint; with `or_before`, nobody looked further back.
    Unchanged {
        /// The checkpoint.
        since: String,
        /// It may have had it even before.
        or_before: bool,
    },
    /// Another tensor of this checkpoint has it too, and was saved first.
    SameAs(String),
    /// It was in the store already, brought by the save of this checkpoint, if that is kept.
    Shared(Option<String>),
    /// A collection wrote it anew, and what its save thought is not known any more.
    Rewritten,
    /// Its run had no earlier step.
    First,
    /// This checkpoint, which it continues, has no tensor of that name and type.
    NoCounterpart(String),
    /// That checkpoint's tensor has another shape.
    Reshaped(String),
    /// That checkpoint has the tensor in other boxes, or as a whole.
    Resharded(String),
    /// No difference to an earlier save was smaller, now or when one was last tried.
    NotSmaller,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Checkpoint(address) => f.write_str(address),
            Origin::Tensor(name) => f.write_str(name),
            Origin::Older => f.write_str("an older save"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Unchanged { since, or_before: false } => write!(f, "unchanged since {since}"),
            Why::Unchanged { since, or_before: true } => write!(f, "unchanged since {since} or before"),
            Why::SameAs(name) => write!(f, "the same as {name}"),
            Why::Shared(Some(with)) => write!(f, "shared with {with}"),
            Why::Shared(None) => f.write_str("shared with an older save"),
            Why::Rewritten => f.write_str("written anew by a collection"),
            Why::First => f.write_str("its run had no earlier step"),
            Why::NoCounterpart(parent) => write!(f, "no counterpart in {parent}"),
            Why::Reshaped(parent) => write!(f, "another shape than in {parent}"),
            Why::Resharded(parent) => write!(f, "sharded otherwise than in {parent}"),
            Why::NotSmaller => f.write_str("a difference to an earlier save was not smaller"),
        }
    }
}

/// `delta to RUN@40, depth 3; unchanged since RUN@50`
impl fmt::Display for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encoding)?;
        if let Some(base) = &self.base {
            let to = if self.encoding == "cast" { "of" } else { "to" };
            write!(f, " {to} {base}, depth {}", self.depth)?;
        }
        match &self.why {
            Some(why) if self.base.is_some() => write!(f, "; {why}"),
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

/// A chunk, and what is known of it so far.
struct Asked {
    chunk: ChunkId,
    /// Its place among the chunks of its tensor, and its length.
    place: usize,
    bytes: u32,
    base: Option<ChunkId>,
    origin: Option<Origin>,
    /// The oldest checkpoint that is known to have it in the same tensor, without a gap.
    since: Option<String>,
    /// An older one may have it too.
    goes_on: bool,
}

impl Asked {
    /// True if an older checkpoint may tell more.
    fn is_open(&self) -> bool {
        self.goes_on || self.base.is_some() && self.origin.is_none()
    }
}

impl Store {
    /// How the tensors of a checkpoint are encoded and why, in the order of [`Checkpoint::tensors`]. Of a dropped
    /// component there is nothing to say.
    pub fn encodings_of(&self, checkpoint: &Checkpoint) -> Result<Vec<Vec<Encoded>>> {
        let mut asked = asked(checkpoint)?;
        let first_of = first_tensors(&asked);
        name_own_bases(checkpoint, &first_of, &mut asked);
        let parent = self.look_back(checkpoint, &mut asked)?;
        self.look_for_writers(checkpoint, &mut asked)?;
        let parent = parent.as_ref().map(Older::new);
        Explainer { store: self, checkpoint, parent, first_of, writers: HashMap::new() }.explain(asked)
    }

    /// Follows the chunks back through the kept checkpoints that this one continues. Returns its parent, if that is
    /// one of them.
    fn look_back(&self, checkpoint: &Checkpoint, asked: &mut [Vec<Asked>]) -> Result<Option<Checkpoint>> {
        let own = checkpoint.info();
        let (mut parent, mut next, mut looked) = (None, own.parent, 0);
        while let Some(slot) = next {
            let Some(row) = self.catalog().checkpoint(slot)? else { break };
            next = row.parent;
            if row.status == Status::Forgotten {
                continue;
            }
            if looked == LOOK_BACK_MAX || looked > 0 && !asked.iter().flatten().any(Asked::is_open) {
                return Ok(parent);
            }
            looked += 1;
            let older = match self.checkpoint_of(row) {
                Ok(older) => older,
                Err(Error::Forgotten { .. }) => continue, // a moment ago
                Err(error) => return Err(error),
            };
            Older::new(&older).follow(checkpoint, asked, true)?;
            if own.parent == Some(slot) {
                parent = Some(older);
            }
        }
        // That was all of its history.
        asked.iter_mut().flatten().for_each(|asked| asked.goes_on = false);
        Ok(parent)
    }

    /// Bases that none of those checkpoints has: perhaps the one has them whose save wrote them.
    fn look_for_writers(&self, checkpoint: &Checkpoint, asked: &mut [Vec<Asked>]) -> Result<()> {
        let chunks = &checkpoint.parts().0.chunks;
        let without_origin = asked.iter().flatten().filter(|asked| asked.origin.is_none());
        let packs = without_origin.filter_map(|asked| chunks.pack_of(asked.base?));
        let saves: BTreeSet<SaveId> = packs.map(|pack| pack.save).collect();
        for save in saves.into_iter().take(LOOK_BACK_MAX) {
            let writer = self.catalog().checkpoint_of_save(save)?;
            let Some(writer) = writer.filter(|row| row.status != Status::Forgotten) else { continue };
            match self.checkpoint_of(writer) {
                Ok(writer) => Older::new(&writer).follow(checkpoint, asked, false)?,
                Err(Error::Forgotten { .. }) => {} // a moment ago
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Another checkpoint, to look for the same tensors in.
struct Older<'a> {
    checkpoint: &'a Checkpoint,
    by_name: HashMap<(&'a str, &'a str), usize>,
}

impl<'a> Older<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Older<'a> {
        let by_name = checkpoint.metas().enumerate();
        let by_name = by_name.map(|(at, (component, meta))| ((component, meta.name.as_str()), at)).collect();
        Older { checkpoint, by_name }
    }

    fn address(&self) -> String {
        self.checkpoint.info().address()
    }

    /// Its tensor of the same component and name.
    fn tensor(&self, component: &str, meta: &TensorMeta) -> Option<(&'a SchemaTensor, Option<&'a Stored>)> {
        let &at = self.by_name.get(&(component, meta.name.as_str()))?;
        let (manifest, tensors) = self.checkpoint.parts();
        Some((&manifest.schema.tensors[at], tensors[at].as_ref()))
    }

    fn recipe(&self, stored: &Stored) -> Result<Recipe> {
        self.checkpoint.parts().0.chunks.recipe(stored, &mut ChunkTool::default())
    }

    /// Notes which bases it has and, with `chunks`, which chunks themselves.
    fn follow(&self, of: &Checkpoint, asked: &mut [Vec<Asked>], chunks: bool) -> Result<()> {
        for ((component, meta), asked) in of.metas().zip(asked) {
            if !asked.iter().any(Asked::is_open) {
                continue;
            }
            let theirs: HashSet<ChunkId> = match self.tensor(component, meta) {
                Some((_, Some(stored))) => self.recipe(stored)?.0.into_iter().map(|(chunk, _)| chunk).collect(),
                Some((_, None)) => continue, // dropped since: it may have had them
                None => HashSet::new(),
            };
            for asked in asked {
                if asked.origin.is_none() && asked.base.is_some_and(|base| theirs.contains(&base)) {
                    asked.origin = Some(Origin::Checkpoint(self.address()));
                }
                if chunks && asked.goes_on {
                    asked.goes_on = theirs.contains(&asked.chunk);
                    if asked.goes_on {
                        asked.since = Some(self.address());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Puts together what was found.
struct Explainer<'a> {
    store: &'a Store,
    checkpoint: &'a Checkpoint,
    parent: Option<Older<'a>>,
    first_of: HashMap<ChunkId, usize>,
    writers: HashMap<SaveId, Option<CheckpointRow>>,
}

impl Explainer<'_> {
    fn explain(mut self, asked: Vec<Vec<Asked>>) -> Result<Vec<Vec<Encoded>>> {
        asked.iter().enumerate().map(|(tensor, asked)| self.tensor(tensor, asked)).collect()
    }

    fn tensor(&mut self, tensor: usize, asked: &[Asked]) -> Result<Vec<Encoded>> {
        let (manifest, _) = self.checkpoint.parts();
        let mut all: Vec<Encoded> = Vec::new();
        for asked in asked {
            let chunk = asked.chunk;
            let how = manifest.chunks.how_stored(chunk).ok_or(Error::ChunkMissing { chunk })?;
            let one = Encoded {
                chunks: 1,
                encoding: codec::name_of(how.codec),
                base: asked.base.map(|_| asked.origin.clone().unwrap_or(Origin::Older)),
                depth: how.depth,
                why: self.why(tensor, asked, how.pack.save)?,
            };
            let like =
                |other: &&mut Encoded| (other.encoding, &other.base, &other.why) == (one.encoding, &one.base, &one.why);
            match all.iter_mut().find(like) {
                Some(same) => {
                    same.chunks += 1;
                    same.depth = same.depth.max(one.depth);
                }
                None => all.push(one),
            }
        }
        Ok(all)
    }

    fn why(&mut self, tensor: usize, asked: &Asked, writer: SaveId) -> Result<Option<Why>> {
        if let Some(since) = asked.since.clone() {
            return Ok(Some(Why::Unchanged { since, or_before: asked.goes_on }));
        }
        if let Some(&first) = self.first_of.get(&asked.chunk).filter(|&&first| first != tensor) {
            return Ok(Some(Why::SameAs(self.tensor_of(first).meta.name.clone())));
        }
        if writer != self.checkpoint.info().save {
            return Ok(Some(match self.writer(writer)? {
                None => Why::Rewritten,
                Some(row) if row.status == Status::Forgotten => Why::Shared(None),
                Some(row) => Why::Shared(Some(row.address())),
            }));
        }
        // Written by this very save. Whether it compared with its parent or with what the policy kept is not known.
        if asked.base.is_some() { Ok(None) } else { self.why_alone(tensor, asked) }
    }

    fn why_alone(&self, tensor: usize, asked: &Asked) -> Result<Option<Why>> {
        if self.checkpoint.info().parent.is_none() {
            return Ok(Some(Why::First));
        }
        let Some(parent) = &self.parent else { return Ok(None) };
        let tensor = self.tensor_of(tensor);
        let component = &self.checkpoint.parts().0.schema.components[tensor.component as usize];
        Ok(match parent.tensor(component, &tensor.meta) {
            None => Some(Why::NoCounterpart(parent.address())),
            Some((_, None)) => None,
            Some((other, _)) if other.meta.dtype != tensor.meta.dtype => Some(Why::NoCounterpart(parent.address())),
            Some((other, _)) if other.meta.shape != tensor.meta.shape => Some(Why::Reshaped(parent.address())),
            Some((other, _)) if other.boxes != tensor.boxes => Some(Why::Resharded(parent.address())),
            Some((_, Some(stored))) => {
                let same_cut = parent.recipe(stored)?.0.get(asked.place).is_some_and(|&(_, n)| n == asked.bytes);
                same_cut.then_some(Why::NotSmaller)
            }
        })
    }

    fn tensor_of(&self, at: usize) -> &SchemaTensor {
        &self.checkpoint.parts().0.schema.tensors[at]
    }

    /// The checkpoint of a save; a collection's is none.
    fn writer(&mut self, save: SaveId) -> Result<Option<CheckpointRow>> {
        if let Some(known) = self.writers.get(&save) {
            return Ok(known.clone());
        }
        let row = self.store.catalog().checkpoint_of_save(save)?;
        self.writers.insert(save, row.clone());
        Ok(row)
    }
}

/// Every chunk of every tensor.
fn asked(checkpoint: &Checkpoint) -> Result<Vec<Vec<Asked>>> {
    let (manifest, tensors) = checkpoint.parts();
    let mut tool = ChunkTool::default();
    let ask = |(place, (chunk, bytes)): (usize, (ChunkId, u32))| {
        let base = manifest.chunks.bases_of(chunk).first().copied();
        Asked { chunk, place, bytes, base, origin: None, since: None, goes_on: true }
    };
    let recipes = tensors.iter().map(|stored| match stored {
        Some(stored) => manifest.chunks.recipe(stored, &mut tool),
        None => Ok(Recipe::default()),
    });
    recipes.map(|recipe| Ok(recipe?.0.into_iter().enumerate().map(ask).collect())).collect()
}

/// The first tensor that has each chunk.
fn first_tensors(asked: &[Vec<Asked>]) -> HashMap<ChunkId, usize> {
    let mut first = HashMap::new();
    for (tensor, chunks) in asked.iter().enumerate() {
        for asked in chunks {
            first.entry(asked.chunk).or_insert(tensor);
        }
    }
    first
}

/// Bases that the checkpoint has itself need no looking for.
fn name_own_bases(checkpoint: &Checkpoint, first_of: &HashMap<ChunkId, usize>, asked: &mut [Vec<Asked>]) {
    let schema = &checkpoint.parts().0.schema;
    for asked in asked.iter_mut().flatten() {
        let at = asked.base.and_then(|base| first_of.get(&base));
        asked.origin = at.map(|&at| Origin::Tensor(schema.tensors[at].meta.name.clone()));
    }
}
