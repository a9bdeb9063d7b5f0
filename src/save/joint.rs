//! A save by several processes: each stores its part, and one of them commits when all parts are there.
//!
//! One save id spans them. Who is to commit begins the save and holds its place for temporary files, as every save does:
//! if that process dies, a collection ends the save for all. The others write packs under the same save id, in a range of
//! numbers of their own, and leave a receipt once these are durable. The commit waits for all receipts, up to a deadline,
//! and is one entry like any other; what ranks have of one tensor is put together as its recipe, without reading a byte:
//! rows in the order of the tensor, and boxes of any other kind one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::ingest::Inputs;
use super::{Prepared, SaveOptions, SaveReport, check, commit, put_components};
use crate::backend::Staging;
use crate::catalog::{PackRow, PackState};
use crate::error::{Error, Result};
use crate::format::entry::{NewPack, Sizes};
use crate::format::keys::Key;
use crate::format::manifest::{Root, Schema, SchemaTensor};
use crate::format::names;
use crate::format::pack::Footer;
use crate::format::receipt::{Receipt, Share};
use crate::id::{ChunkId, PackId, SaveId};
use crate::store::{PackWriter, Store};
use crate::tensor::TensorMeta;
use crate::tensor::boxes::{self, Runs, TensorBox};

type Chunks = Vec<(ChunkId, u32)>;

/// Packs of one process are numbered within a range of this length.
const PACKS_EACH: u32 = 1 << 16;
/// Processes of a save, at most: the number of a pack has 32 bits, and the commit takes a range too.
const RANKS_MAX: u32 = u32::MAX / PACKS_EACH;
/// A receipt that is longer is none.
const RECEIPT_BYTES_MAX: usize = 1 << 30;
/// How often a receipt that is missing is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Which part of a joint save a process stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JointPart {
    /// The save, as [`JointSave::id`] says it.
    pub save: SaveId,
    /// The number of the process, from 0.
    pub rank: u32,
    /// How many processes there are.
    pub ranks: u32,
}

/// A joint save, for the process that commits it. Dropped before that, it is given up: what its parts stored is garbage.
#[derive(Debug)]
pub struct JointSave {
    store: Store,
    save: SaveId,
    begin: u64,
    staging: Option<Box<dyn Staging>>,
    receipts: Vec<Receipt>,
}

impl Store {
    /// Begins a save that several processes make together.
    pub fn begin_joint(&self) -> Result<JointSave> {
        self.refresh()?;
        self.make_sure()?;
        let begin = self.catalog().position()?.next;
        let save = SaveId(self.env().random());
        let staging = self.backend().begin(save)?;
        // From now on others may make packs visible. If nothing comes of it, the place stays for a collection, which takes
        // them away once nobody holds the lock.
        staging.publish(&[])?;
        Ok(JointSave { store: self.clone(), save, begin, staging: Some(staging), receipts: Vec::new() })
    }

    /// Stores one part of a joint save: tensors from memory, whole or boxes of them. Run, step and parent are those of
    /// the commit, which takes all else of the options from its own. `note` is for whoever commits.
    pub fn save_part(&self, part: &JointPart, inputs: &Inputs<'_>, options: &SaveOptions, note: &str) -> Result<Sizes> {
        check(options)?;
        check_ranks(part.ranks)?;
        if part.rank >= part.ranks {
            return Err(Error::invalid(format!("rank {}", part.rank), format!("there are {}", part.ranks)));
        }
        if inputs.files.iter().any(|file| file.header.is_some()) || !inputs.side_files.is_empty() {
            return Err(Error::invalid("a part of a joint save", "it takes tensors from memory, and no files"));
        }
        let staging = self.backend().join(part.save)?;
        self.refresh()?;
        self.make_sure()?;
        let parent = self.parent_of(options)?;
        let lineage = commit::lineage(&self.catalog(), &parent, options)?;
        let packs = PackWriter::shared(self, part.save, part.rank * PACKS_EACH, part.ranks, staging);
        let options = SaveOptions { state: None, dry_run: false, ..options.clone() };
        let packed = self.pack_up(inputs, &options, &lineage, None, packs, |writer| Ok(writer.take_shares()))?;
        self.check_stop()?;
        let published = packed.packs.publish(&[])?;
        let share = |(tensor, chunks): (&super::ingest::InputTensor, Chunks)| {
            let (whole, place) = (tensor.whole(), tensor.place());
            Share {
                component: tensor.component.clone(),
                dtype: whole.dtype.name().to_string(),
                name: whole.name,
                shape: whole.shape,
                bytes: whole.bytes,
                offsets: place.offsets,
                lengths: place.lengths,
                chunks,
            }
        };
        let sizes = Sizes { stored: published.bytes(), ..packed.sizes };
        let receipt = Receipt {
            save: part.save,
            rank: part.rank,
            ranks: part.ranks,
            run: options.run,
            step: options.step,
            sizes,
            packs: published.packs.clone(),
            needs: packed.needs.into_iter().collect(),
            tensors: inputs.tensors.iter().zip(packed.made).map(share).collect(),
            note: note.to_string(),
        };
        self.backend().put_receipt(part.save, part.rank, &receipt.encode())?;
        Ok(sizes)
    }
}

impl JointSave {
    /// The id that the other processes need.
    pub fn id(&self) -> SaveId {
        self.save
    }

    /// Waits until all parts are stored, and returns the notes of the processes in their order.
    pub fn wait(&mut self, ranks: u32, timeout: Duration) -> Result<Vec<String>> {
        check_ranks(ranks)?;
        let deadline = Instant::now() + timeout;
        while (self.receipts.len() as u32) < ranks {
            let rank = self.receipts.len() as u32;
            match self.store.backend().read(&Key::receipt(self.save, rank), RECEIPT_BYTES_MAX) {
                Ok(bytes) => {
                    let receipt = Receipt::decode(&bytes)?;
                    self.check_same(&receipt, rank, ranks)?;
                    self.receipts.push(receipt);
                }
                Err(Error::ObjectMissing { .. }) if Instant::now() < deadline => {
                    self.store.check_stop()?;
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(Error::ObjectMissing { .. }) => {
                    return Err(Error::PartMissing { rank, ranks, seconds: timeout.as_secs() });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.receipts.iter().map(|receipt| receipt.note.clone()).collect())
    }

    /// Commits what was waited for.
    pub fn commit(mut self, options: &SaveOptions) -> Result<SaveReport> {
        let started = Instant::now();
        check(options)?;
        let store = self.store.clone();
        let (rank, ranks) = (self.receipts.len() as u32, self.receipts.first().map_or(1, |part| part.ranks));
        if rank < ranks {
            return Err(Error::PartMissing { rank, ranks, seconds: 0 });
        }
        if options.dry_run {
            return Err(Error::invalid("a dry run of a joint save", "its parts are stored already"));
        }
        if let Some(other) = self.receipts.iter().find(|part| part.run != options.run || part.step != options.step) {
            let (rank, theirs) = (other.rank, format!("{}@{}", other.run, other.step));
            return Err(differ(rank, format!("it saved {theirs}, and not {}@{}", options.run, options.step)));
        }
        let (schema, recipes) = put_together(&self.receipts)?;
        store.refresh()?;
        let others = self.packs_of_parts()?;
        let parent = store.parent_of(options)?;
        let lineage = commit::lineage(&store.catalog(), &parent, options)?;
        let staging = self.staging.take().ok_or_else(|| Error::Bug("a joint save that has ended".into()))?;
        let packs = PackWriter::shared(&store, self.save, ranks * PACKS_EACH, 1, staging);
        let (schema_bytes, lengths) = (schema.encode(), schema.tensors.iter().map(|tensor| tensor.meta.bytes));
        let schema_id = ChunkId::of(&schema_bytes);
        let packed = store.pack_up(&Inputs::default(), options, &lineage, Some(schema_id), packs, |writer| {
            let stored = recipes.into_iter().zip(lengths);
            let stored: Vec<_> =
                stored.map(|(recipe, bytes)| writer.put_recipe(recipe, bytes)).collect::<Result<_>>()?;
            let root = Root {
                folder: false,
                components: put_components(writer, &schema, &stored)?,
                files: vec![crate::format::manifest::File { name: super::ingest::SINGLE_FILE.into(), header: None }],
                side_files: Vec::new(),
                state: writer.stored()?.pop(),
                schema: writer.put_bytes(&schema_bytes)?,
            };
            writer.put_bytes(&root.encode())
        })?;
        let mut needs = packed.needs;
        needs.extend(self.receipts.iter().flat_map(|part| &part.needs));
        let mut components: BTreeMap<String, u64> = BTreeMap::new();
        for tensor in &schema.tensors {
            *components.entry(schema.components[tensor.component as usize].clone()).or_default() += tensor.meta.bytes;
        }
        let prepared = Prepared {
            save: self.save,
            manifest: packed.made,
            schema: schema_id,
            sizes: self.receipts.iter().fold(packed.sizes, |sum, part| add(sum, part.sizes)),
            needs,
            packs: packed.packs,
            others,
            tensors: schema.tensors.len() as u64,
            components,
            bases_in_memory: 0,
        };
        let report = store.commit(prepared, options, self.begin, started)?;
        // It is committed: what receipts stay is for a collection to take.
        let _ = store.backend().remove_receipts(self.save);
        Ok(report)
    }

    /// The packs of all parts. Fails unless they, and those that the parts rely on, hold every chunk that is named: a
    /// receipt is what another process said, and a commit is for ever.
    fn packs_of_parts(&self) -> Result<Vec<(NewPack, Footer)>> {
        let (store, mut packs, mut needs) = (&self.store, Vec::new(), BTreeMap::new());
        for receipt in &self.receipts {
            for &pack in &receipt.packs {
                let row = PackRow::of_new(PackId { save: self.save, index: pack.index }, &pack);
                packs.push((pack, store.read_footer(&row)?.0));
            }
            for &pack in &receipt.needs {
                let row = store.catalog().pack(pack)?.filter(|row| row.state == PackState::Live);
                needs.insert(pack, row.ok_or_else(|| Error::Stale { what: format!("pack {pack}") })?);
            }
        }
        let set = store.pack_set_with(needs.into_values().collect(), &packs)?;
        for receipt in &self.receipts {
            for share in &receipt.tensors {
                let stored = |&(chunk, length): &(ChunkId, u32)| {
                    set.contains(chunk) && set.how_stored(chunk).is_some_and(|how| how.chunk_bytes == length)
                };
                if let Some((chunk, _)) = share.chunks.iter().find(|chunk| !stored(chunk)) {
                    let name = names::printable(&share.name);
                    let why = format!("chunk {chunk} of tensor {name} is in none of the packs that it names");
                    return Err(Error::damaged(format!("the part of rank {}", receipt.rank), why));
                }
            }
        }
        Ok(packs)
    }

    fn check_same(&self, receipt: &Receipt, rank: u32, ranks: u32) -> Result<()> {
        let (of_save, of_rank, of_ranks) = (receipt.save, receipt.rank, receipt.ranks);
        if of_save != self.save {
            Err(differ(rank, format!("its receipt is of save {of_save}, and not of {}", self.save)))
        } else if of_rank != rank || of_ranks != ranks {
            Err(differ(rank, format!("its receipt is that of {of_rank} of {of_ranks}, and not of {rank} of {ranks}")))
        } else if !has_own_numbers(receipt) {
            Err(differ(rank, "its packs have numbers that are not its own".into()))
        } else {
            Ok(())
        }
    }
}

/// The packs of a part are numbered on from where its range begins.
fn has_own_numbers(receipt: &Receipt) -> bool {
    let own = receipt.rank * PACKS_EACH..;
    receipt.packs.len() <= PACKS_EACH as usize && receipt.packs.iter().zip(own).all(|(pack, own)| pack.index == own)
}

fn check_ranks(ranks: u32) -> Result<()> {
    match ranks {
        1..=RANKS_MAX => Ok(()),
        _ => Err(Error::Limit { what: format!("a save by {ranks} processes"), limit: format!("1 to {RANKS_MAX}") }),
    }
}

fn differ(rank: u32, why: String) -> Error {
    Error::invalid(format!("the part of rank {rank}"), why)
}

fn add(a: Sizes, b: Sizes) -> Sizes {
    Sizes {
        raw: a.raw.saturating_add(b.raw),
        unchanged: a.unchanged.saturating_add(b.unchanged),
        deduplicated: a.deduplicated.saturating_add(b.deduplicated),
        encoded: a.encoded.saturating_add(b.encoded),
        stored: a.stored.saturating_add(b.stored),
    }
}

/// The tensors that the parts are of, sorted, each with the chunks of its shares in order. Fails unless the shares of
/// each tensor are all of it.
fn put_together(receipts: &[Receipt]) -> Result<(Schema, Vec<Chunks>)> {
    let mut shares: BTreeMap<(&str, &str), Vec<(u32, &Share)>> = BTreeMap::new();
    for (receipt, share) in
        receipts.iter().flat_map(|receipt| receipt.tensors.iter().map(move |share| (receipt, share)))
    {
        shares.entry((&share.component, &share.name)).or_default().push((receipt.rank, share));
    }
    let components: BTreeSet<&str> = shares.keys().map(|(component, _)| *component).collect();
    let components: Vec<String> = components.into_iter().map(String::from).collect();
    let mut schema = Schema { components, files: 1, tensors: Vec::new() };
    let mut recipes = Vec::new();
    for ((component, _), of_tensor) in shares {
        let meta = of_tensor[0].1.meta();
        if let Some((rank, other)) = of_tensor.iter().find(|(_, share)| share.meta() != meta) {
            let (name, theirs) = (names::printable(&meta.name), other.meta());
            let why = format!("tensor {name} is {} {:?} there", theirs.dtype.name(), theirs.shape);
            return Err(differ(*rank, format!("{why}, and {} {:?} elsewhere", meta.dtype.name(), meta.shape)));
        }
        let shares = of_tensor.into_iter().map(|(_, share)| share).filter(|share| !share.chunks.is_empty());
        let (boxes, shares) = in_order(&meta, shares.map(|share| (share.place(), share)).collect())?;
        recipes.push(shares.into_iter().flat_map(|share| share.chunks.iter().copied()).collect());
        let component = schema.components.iter().position(|name| name == component).unwrap_or_default() as u32;
        schema.tensors.push(SchemaTensor { component, file: 0, meta, alias: None, boxes });
    }
    Ok((schema, recipes))
}

/// The shares of a tensor in the order in which it is stored, and its boxes if that is not the order of its bytes. Fails
/// unless they hold each element once.
fn in_order<'a>(
    meta: &TensorMeta,
    mut shares: Vec<(TensorBox, &'a Share)>,
) -> Result<(Vec<TensorBox>, Vec<&'a Share>)> {
    let fail = |why: String| Err(Error::invalid(format!("tensor {}", names::printable(&meta.name)), why));
    let whole = TensorBox::whole(&meta.shape);
    let stretch = |(place, _): &(TensorBox, &Share)| match *place == whole {
        true => Some(0..meta.bytes),
        false => Runs::new(place, meta)?.stretch(),
    };
    if let Some(stretches) = shares.iter().map(stretch).collect::<Option<Vec<_>>>() {
        let mut ordered: Vec<_> = stretches.into_iter().zip(shares).collect();
        ordered.sort_by_key(|(stretch, _)| stretch.start);
        let mut end = 0;
        for (stretch, _) in &ordered {
            if stretch.start != end {
                let how = if stretch.start < end { "twice" } else { "by nobody" };
                let (from, to) = (end.min(stretch.start), end.max(stretch.start));
                return fail(format!("its bytes {from} to {to} were saved {how}"));
            }
            end = stretch.end;
        }
        if end != meta.bytes {
            return fail(format!("its bytes from {end} to {} were saved by nobody", meta.bytes));
        }
        return Ok((Vec::new(), ordered.into_iter().map(|(_, (_, share))| share).collect()));
    }
    if meta.dtype.bits().is_none_or(|bits| !bits.is_multiple_of(8)) {
        return fail(format!("elements of type {} are no whole bytes: shard it by rows alone", meta.dtype));
    }
    shares.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (boxes, shares): (Vec<_>, Vec<_>) = shares.into_iter().unzip();
    if !boxes::tile(&boxes, meta) {
        return fail(format!("the {} boxes that were saved do not hold each of its elements once", boxes.len()));
    }
    Ok((boxes, shares))
}
