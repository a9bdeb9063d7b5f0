//! The journey of a save: ingest, cut, encode, pack, commit, report.
//!
//! One pass over the input. The parent decides the cuts; every chunk is hashed, looked for, and encoded if it is new.
//! Nothing that is not durable is ever named: packs are synced and linked before the entry that makes the checkpoint.
//! A save that fails at any point leaves the store as it was; its leavings are its own and collection removes them.

mod base;
mod cast;
mod commit;
mod cut;
mod encode;
mod ingest;
mod joint;
mod reference;
mod trial;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;
use std::time::Instant;

use serde_json::Value;

use crate::catalog::{CheckpointRow, Filter};
use crate::error::{Error, Result};
use crate::format::entry::{Metrics, NewPack, Sizes};
use crate::format::manifest::{self, Root, Schema, SchemaTensor, Stored};
use crate::format::names;
use crate::format::pack::Footer;
use crate::id::{ChunkId, PackId, SaveId};
use crate::monitor::Unit;
use crate::parallel;
use crate::store::{Address, Lookup, PackWriter, Store};
use crate::tensor::Layout;

pub(crate) use ingest::files_below;
pub use ingest::{BoxOf, Inputs, MemoryTensor, Pieces, TensorBytes};
pub use joint::{JointPart, JointSave};

use commit::Lineage;
use cut::{Cutter, Part};
use encode::{Shared, Worker};
use ingest::Bytes;
use reference::{Counterpart, Reference};
use trial::Trials;
use write::Writer;

/// JSON of a config, a state or a provenance that goes into a log entry is never longer.
const ENTRY_JSON_MAX: usize = 256 << 10;

/// What a save is told beside its tensors.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// The training.
    pub run: String,
    /// Its step.
    pub step: u64,
    /// Measured values.
    pub metrics: Metrics,
    /// Names for the checkpoint; taken from any other of the run that has them.
    pub tags: Vec<String>,
    /// A line for people.
    pub note: Option<String>,
    /// The JSON-like values that belong to the checkpoint.
    pub state: Option<Value>,
    /// The run's configuration.
    pub config: Option<Value>,
    /// Where the save comes from.
    pub provenance: Option<Value>,
    /// The checkpoint that it continues; by default the highest step below its own.
    pub parent: Option<Address>,
    /// The step may lie below others of the run without leaving them behind.
    pub backfill: bool,
    /// What to do if the run has this step with other content.
    pub on_conflict: OnConflict,
    /// How much time a smaller store is worth.
    pub encoding: Encoding,
    /// Do all but write.
    pub dry_run: bool,
}

/// How much time a smaller store is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Chains of up to 4 differences.
    Fast,
    /// Up to 8.
    #[default]
    Balanced,
    /// Up to 16, and the fewest bytes for each.
    Small,
}

impl Encoding {
    /// Frames to decode before another, at most.
    fn depth_max(self) -> u8 {
        match self {
            Encoding::Fast => 4,
            Encoding::Balanced => 8,
            // And a cast on top.
            Encoding::Small => 15,
        }
    }
}

/// What to do if the run has this step with other content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Fail with `StepExists`.
    #[default]
    Error,
    /// Keep the old one.
    Skip,
    /// Take the new one; the old one is forgotten.
    Replace,
}

/// How a save ended.
#[derive(Clone, Debug)]
pub struct SaveReport {
    /// The run.
    pub run: String,
    /// The step.
    pub step: u64,
    /// The slot of its commit; `None` for a dry run.
    pub slot: Option<u64>,
    /// What came of it.
    pub outcome: SaveOutcome,
    /// What it took, in bytes.
    pub sizes: Sizes,
    /// How many tensors.
    pub tensors: u64,
    /// Bytes of new objects: packs and entry.
    pub new_bytes: u64,
    /// New objects.
    pub new_objects: u64,
    /// Steps that it left behind.
    pub superseded: Vec<u64>,
    /// How long it took.
    pub seconds: f64,
    /// Bytes left on the device.
    pub space_left: Option<u64>,
    /// Bytes of bases that were in the caller's memory ([`Inputs::with_before`]), and were not read back.
    pub bases_in_memory: u64,
}

/// What came of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveOutcome {
    /// A new checkpoint.
    Saved,
    /// The run had it, bit for bit.
    Identical,
    /// The run has another one of this step, and that was to stay.
    Skipped,
    /// Nothing was written: it was only asked what would be.
    Planned,
}

impl Store {
    /// Saves a checkpoint. When this returns, it is as durable as [`Store::durability`] says.
    pub fn save(&self, inputs: &Inputs<'_>, options: &SaveOptions) -> Result<SaveReport> {
        check(options)?;
        match self.save_once(inputs, options) {
            // What it built on was collected meanwhile: once more, from the inputs.
            Err(Error::Stale { .. }) => self.save_once(inputs, options),
            done => done,
        }
    }

    fn save_once(&self, inputs: &Inputs<'_>, options: &SaveOptions) -> Result<SaveReport> {
        let started = Instant::now();
        self.refresh()?;
        self.make_sure()?;
        let begin = self.catalog().position()?.next;
        let parent = self.parent_of(options)?;
        let lineage = commit::lineage(&self.catalog(), &parent, options)?;
        if let Some(existing) = lineage.existing.as_ref().filter(|_| options.on_conflict == OnConflict::Skip) {
            return Ok(self.report_existing(existing, SaveOutcome::Skipped, Sizes::default(), started));
        }
        let save = SaveId(self.env().random());
        let packs = if options.dry_run { PackWriter::dry(self) } else { PackWriter::new(self, save) };
        let prepared = self.prepare(inputs, options, &lineage, save, packs)?;
        inputs.check_unchanged()?;
        self.check_stop()?;
        self.commit(prepared, options, begin, started)
    }

    /// All that a save does before it commits: its packs, not yet published, and its manifest.
    fn prepare(
        &self,
        inputs: &Inputs<'_>,
        options: &SaveOptions,
        lineage: &Lineage,
        save: SaveId,
        packs: PackWriter,
    ) -> Result<Prepared> {
        let schema = schema_of(inputs);
        let schema_bytes = schema.encode();
        let schema_id = ChunkId::of(&schema_bytes);
        let packed = self.pack_up(inputs, options, lineage, Some(schema_id), packs, |writer| {
            let stored = writer.stored()?;
            let root = put_manifest(writer, inputs, &stored, &schema, &schema_bytes, options.state.is_some())?;
            writer.put_bytes(&root.encode())
        })?;
        Ok(Prepared {
            save,
            manifest: packed.made,
            schema: schema_id,
            sizes: packed.sizes,
            needs: packed.needs,
            packs: packed.packs,
            others: Vec::new(),
            tensors: inputs.tensors.len() as u64,
            components: component_bytes(inputs),
            bases_in_memory: packed.bases_in_memory,
        })
    }

    /// Packs the inputs and, in the end, what `finish` makes of them. Without a schema it is one part of a joint save.
    fn pack_up<T>(
        &self,
        inputs: &Inputs<'_>,
        options: &SaveOptions,
        lineage: &Lineage,
        schema: Option<ChunkId>,
        packs: PackWriter,
        finish: impl FnOnce(&mut Writer<'_>) -> Result<T>,
    ) -> Result<Packed<T>> {
        let reference = self.reference(lineage, schema)?;
        let state = options.state.as_ref().map(|state| Bytes::Owned(state.to_string().into_bytes()));
        let anchor = base::anchor(&self.catalog(), &options.run, lineage.parent.as_ref())?;
        // Where time does not count, every base is tried; with anchors, what the parent was compared with is not known.
        let learns = anchor.is_none() && options.encoding != Encoding::Small;
        let parent = lineage.parent.as_ref().map(|row| row.slot);
        let anchor = anchor.filter(|row| Some(row.slot) != parent).and_then(|row| self.open_reference(row));
        let parts = parts_of(inputs, state.as_ref(), reference.as_ref(), anchor.as_ref())?;
        let known = reference.as_ref().map(|reference| &reference.manifest.chunks);
        let bases = anchor.as_ref().map(|anchor| &anchor.manifest.chunks);

        let has_history = self.catalog().has_packs()?;
        let lookup = has_history.then(|| self.index_packs().map(|()| Lookup::new(self))).transpose()?;
        let trials = reference.as_ref().filter(|_| learns).map(|reference| Trials::new(self, &reference.manifest));
        let shared = Shared::new(&parts, known, bases, trials, lookup.as_ref(), options.encoding);
        let mut writer = Writer::new(&shared, known, packs, schema.is_none());
        let mut cutter = Cutter::new(&parts, known, bases);

        self.monitor().begin("saving", Some(parts.iter().map(|part| part.length).sum()), Unit::Bytes);
        parallel::ordered_with(
            self.threads(),
            || self.monitor().helpers(),
            self.window(),
            || self.check_stop().and_then(|()| cutter.next_batch()),
            Worker::default,
            |worker, batch| batch.into_iter().map(|piece| shared.work(worker, piece)).collect::<Result<Vec<_>>>(),
            |batch| {
                self.monitor().advance(batch.iter().map(|done| u64::from(done.length)).sum());
                batch.into_iter().try_for_each(|done| writer.take(done))
            },
        )?;
        self.monitor().end();
        if let Some(why) = &cutter.unreadable {
            self.monitor().warn(&format!("what was saved before cannot be compared with everywhere: {why}"));
        }

        let made = finish(&mut writer)?;
        let Writer { sizes, needs, .. } = &mut writer;
        let (sizes, needs) = (*sizes, std::mem::take(needs));
        Ok(Packed { made, sizes, needs, packs: writer.into_packs(), bases_in_memory: shared.bases_in_memory() })
    }

    /// The checkpoint to compare with. One that cannot be read is no reason to fail.
    fn reference(&self, lineage: &Lineage, schema: Option<ChunkId>) -> Result<Option<Reference>> {
        let mut row = lineage.parent.clone().or(lineage.existing.clone());
        if let (None, Some(schema)) = (&row, schema) {
            row = self.catalog().newest_of_schema(schema)?;
        }
        if row.is_none() {
            row = self.catalog().checkpoints(&Filter { newest: Some(1), ..Filter::default() })?.pop();
        }
        Ok(row.and_then(|row| self.open_reference(row)))
    }

    fn open_reference(&self, row: CheckpointRow) -> Option<Reference> {
        let address = row.address();
        let opened = Reference::open(self, row);
        opened.inspect_err(|error| self.monitor().warn(&format!("{address} cannot be compared with: {error}"))).ok()
    }

    /// Pieces in flight: each may hold its input, its frame, and a worker's scratch. Small ones come as one.
    fn window(&self) -> usize {
        let fit = self.options().memory_bytes / (3 * crate::chunk::MAX);
        fit.clamp(1, 4 * self.threads().max(2))
    }

    fn parent_of(&self, options: &SaveOptions) -> Result<Option<CheckpointRow>> {
        options.parent.as_ref().map(|address| self.resolve(address)).transpose()
    }

    fn report_existing(&self, row: &CheckpointRow, outcome: SaveOutcome, sizes: Sizes, started: Instant) -> SaveReport {
        SaveReport {
            run: row.run.clone(),
            step: row.step,
            slot: Some(row.slot),
            outcome,
            sizes,
            tensors: row.tensors,
            new_bytes: 0,
            new_objects: 0,
            superseded: Vec::new(),
            seconds: started.elapsed().as_secs_f64(),
            space_left: self.space_left(),
            bases_in_memory: 0,
        }
    }
}

/// A save that only has to be committed.
struct Prepared {
    save: SaveId,
    manifest: Stored,
    schema: ChunkId,
    sizes: Sizes,
    needs: BTreeSet<PackId>,
    packs: PackWriter,
    /// Packs of the same save that others wrote, and that are durable.
    others: Vec<(NewPack, Footer)>,
    tensors: u64,
    /// Bytes of each component.
    components: BTreeMap<String, u64>,
    /// Bytes of bases that were in the caller's memory.
    bases_in_memory: u64,
}

/// Inputs in packs.
struct Packed<T> {
    made: T,
    sizes: Sizes,
    /// Packs of other saves that are needed.
    needs: BTreeSet<PackId>,
    packs: PackWriter,
    bases_in_memory: u64,
}

fn check(options: &SaveOptions) -> Result<()> {
    names::check_run(&options.run)?;
    options.tags.iter().try_for_each(|tag| names::check_tag(tag))?;
    options.metrics.keys().try_for_each(|name| names::check_metric(name))?;
    for (what, value) in [("config", &options.config), ("provenance", &options.provenance)] {
        let length = value.as_ref().map_or(0, |value| value.to_string().len());
        if length > ENTRY_JSON_MAX {
            return Err(Error::Limit {
                what: format!("a {what} of {length} bytes"),
                limit: format!("{ENTRY_JSON_MAX} bytes"),
            });
        }
    }
    match &options.note {
        Some(note) if note.len() > 64 << 10 => Err(Error::Limit { what: "the note".into(), limit: "64 KiB".into() }),
        _ => Ok(()),
    }
}

fn schema_of(inputs: &Inputs<'_>) -> Schema {
    let mut components: Vec<String> = Vec::new();
    for tensor in &inputs.tensors {
        if components.last() != Some(&tensor.component) {
            components.push(tensor.component.clone());
        }
    }
    let mut component = 0;
    let mut seen = HashMap::new();
    let tensors = inputs.tensors.iter().zip(0u32..).map(|(tensor, number)| {
        component += usize::from(components[component] != tensor.component);
        let first = inputs.memory_of(tensor).map(|memory| *seen.entry(memory).or_insert(number));
        let alias = first.filter(|&first| first != number);
        SchemaTensor {
            component: component as u32,
            file: tensor.file,
            meta: tensor.meta.clone(),
            alias,
            boxes: Vec::new(),
        }
    });
    let tensors = tensors.collect();
    Schema { components, files: inputs.files.len() as u32, tensors }
}

/// Tensors in the order of the manifest, then headers, side files and the state.
fn parts_of<'a>(
    inputs: &'a Inputs<'a>,
    state: Option<&'a Bytes<'a>>,
    reference: Option<&Reference>,
    anchor: Option<&Reference>,
) -> Result<Vec<Part<'a>>> {
    let sources = cast::sources(inputs)?;
    let mut parts = Vec::with_capacity(inputs.tensors.len() + inputs.files.len() + inputs.side_files.len() + 1);
    let mut group = 0;
    for (n, tensor) in inputs.tensors.iter().enumerate() {
        group += usize::from(n == 0 || inputs.tensors[n - 1].component != tensor.component);
        let counterpart = |of: Option<&Reference>| of.and_then(|of| of.tensor(n, tensor));
        parts.push(Part {
            bytes: &inputs.files[tensor.file as usize].bytes[tensor.source],
            offset: tensor.offset,
            length: tensor.meta.bytes,
            layout: tensor.layout(),
            counterpart: counterpart(reference),
            anchor: counterpart(anchor),
            before: inputs.before(tensor),
            cast_of: sources[n],
            fruitless: OnceLock::new(),
            group,
        });
    }
    let whole = |bytes: &'a Bytes<'a>, length: u64, counterpart: Option<Stored>| {
        let counterpart = counterpart.map(|stored| Counterpart { stored, number: None, begin: Some(0) });
        let (layout, anchor, before, cast_of) = (Layout::Bytes, None, None, None);
        let fruitless = OnceLock::new();
        Part { bytes, offset: 0, length, layout, counterpart, anchor, before, cast_of, fruitless, group: 0 }
    };
    for file in &inputs.files {
        if let Some(header) = &file.header {
            parts.push(whole(&file.bytes[0], header.len() as u64, reference.and_then(|r| r.header(&file.name))));
        }
    }
    for (name, bytes) in &inputs.side_files {
        parts.push(whole(bytes, bytes.len(), reference.and_then(|r| r.side_file(name))));
    }
    parts.extend(state.map(|state| whole(state, state.len(), None)));
    Ok(parts)
}

fn put_manifest(
    writer: &mut Writer<'_>,
    inputs: &Inputs<'_>,
    stored: &[Stored],
    schema: &Schema,
    schema_bytes: &[u8],
    state: bool,
) -> Result<Root> {
    let (tensors, rest) = stored.split_at(inputs.tensors.len());
    let mut rest = rest.iter().copied();
    let mut next = || rest.next().ok_or_else(|| Error::Bug("a part that was not stored".into()));
    let mut files = Vec::new();
    for file in &inputs.files {
        let header = file.header.is_some().then(&mut next).transpose()?;
        files.push(manifest::File { name: file.name.clone(), header });
    }
    let side_files = inputs.side_files.iter().map(|(name, _)| Ok((name.clone(), next()?))).collect::<Result<_>>()?;
    let state = state.then(&mut next).transpose()?;
    let components = put_components(writer, schema, tensors)?;
    Ok(Root { folder: inputs.folder, schema: writer.put_bytes(schema_bytes)?, components, files, side_files, state })
}

/// The blocks of each component.
fn put_components(writer: &mut Writer<'_>, schema: &Schema, tensors: &[Stored]) -> Result<Vec<Option<Vec<ChunkId>>>> {
    let components = 0..schema.components.len();
    components.map(|n| writer.put_blocks(&tensors[schema.of_component(n)]).map(Some)).collect()
}

fn component_bytes(inputs: &Inputs<'_>) -> BTreeMap<String, u64> {
    let mut bytes = BTreeMap::new();
    for tensor in &inputs.tensors {
        *bytes.entry(tensor.component.clone()).or_insert(0) += tensor.meta.bytes;
    }
    bytes
}
