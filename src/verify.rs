//! Reading what is stored, and believing nothing.
//!
//! Damage does not end it: what is found is collected, and for each damaged object the report names every checkpoint
//! and every tensor that it reaches. The catalog is not asked: the log is folded anew, and footers are read from packs.
//! What an entry that cannot be read said is made again from packs, to name the checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::time::Instant;

use rustix::io::Errno;

use crate::catalog::{CheckpointRow, Filter, PackRow, PackState};
use crate::codec;
use crate::error::{Error, Result};
use crate::format::entry::Decoded;
use crate::format::keys::Key;
use crate::format::pack::{self, Footer};
use crate::id::{ChunkId, PackId};
use crate::monitor::Unit;
use crate::parallel;
use crate::store::{ChunkTool, Manifest, PackSet, Store, WHOLE};

/// How much is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The log, and of each pack its length and its end.
    #[default]
    Structure,
    /// Every byte of every pack, against the checksum of its frame.
    Stored,
    /// Every chunk is decoded and hashed, and every manifest is read.
    Deep,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Entries of the log.
    pub entries: u64,
    /// Packs that were looked at.
    pub packs: u64,
    /// Frames that were read.
    pub frames: u64,
    /// Checkpoints that are not forgotten.
    pub checkpoints: u64,
    /// Stored bytes that were read.
    pub stored_bytes: u64,
    /// Bytes that came out of them.
    pub raw_bytes: u64,
    /// Objects, or parts of them, that are not what was written.
    pub damage: Vec<Damage>,
    /// Damage that the log knows of. If no checkpoint is affected, good copies are elsewhere.
    pub known: Vec<Damage>,
    /// Checkpoints that cannot be restored whole, with the names of the tensors that are lost.
    pub affected: Vec<Affected>,
    /// Packs that no entry names, of saves that run now or that died, and packs that were deleted and came back.
    /// A collection removes what nobody is at work on.
    pub foreign: Vec<PackId>,
    /// How long it took.
    pub seconds: f64,
}

/// Something that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// The object's key.
    pub object: String,
    /// The chunk, if not all of the object is damaged.
    pub chunk: Option<ChunkId>,
    /// What showed it.
    pub why: String,
}

/// A checkpoint that cannot be restored whole.
#[derive(Clone, Debug)]
pub struct Affected {
    /// The checkpoint.
    pub checkpoint: CheckpointRow,
    /// The tensors, headers and side files that are lost; the manifest's own name if it cannot be read.
    pub lost: Vec<String>,
}

impl VerifyReport {
    /// Nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.affected.is_empty()
    }
}

/// What is found while packs are read.
#[derive(Default)]
pub(crate) struct Findings {
    damage: BTreeSet<Damage>,
    /// Frames that cannot be read, and packs of which nothing can.
    pub(crate) bad_chunks: BTreeSet<(PackId, ChunkId)>,
    pub(crate) bad_packs: BTreeSet<PackId>,
    frames: u64,
    stored: u64,
    raw: u64,
}

impl Store {
    /// Reads what is stored, to this depth.
    pub fn verify(&self, depth: Depth) -> Result<VerifyReport> {
        self.refresh()?;
        self.check_catalog()?;
        Ok(self.look_through(depth)?.0)
    }

    /// The same, and what was found in packs.
    pub(crate) fn look_through(&self, depth: Depth) -> Result<(VerifyReport, Findings)> {
        let started = Instant::now();
        let mut report = VerifyReport::default();
        let cold = self.cold()?;
        let unfolded = cold.catalog().damaged()?;
        if !unfolded.is_empty() {
            cold.fold_as_if(&cold.remake(&cold.unreadable()?)?)?;
        }
        let mut damage = cold.verify_log(&mut report)?;
        let packs: Vec<PackRow> =
            cold.catalog().packs()?.into_iter().filter(|pack| pack.state == PackState::Live).collect();
        let lying: Vec<PackId> = self.backend().packs()?.iter().map(|lying| lying.pack).collect();
        let known: HashSet<PackId> = packs.iter().map(|pack| pack.pack).collect();
        report.foreign = cold.foreign(&known, &lying)?;
        let findings = cold.verify_packs(&packs, depth)?;
        report.packs = packs.len() as u64;
        (report.frames, report.stored_bytes, report.raw_bytes) = (findings.frames, findings.stored, findings.raw);
        damage.extend(findings.damage.iter().cloned());
        let lost_slots: BTreeSet<u64> = unfolded.into_iter().map(|(slot, _)| slot).collect();
        report.affected = cold.affected(&findings, &lost_slots, depth)?;
        report.checkpoints = cold.catalog().count_checkpoints()?[..2].iter().sum();
        (report.known, report.damage) = cold.split_known(damage)?;
        report.seconds = started.elapsed().as_secs_f64();
        Ok((report, findings))
    }

    /// Every slot up to the head, read again.
    fn verify_log(&self, report: &mut VerifyReport) -> Result<BTreeSet<Damage>> {
        let (mut damage, mut senseless) = (BTreeSet::new(), BTreeSet::new());
        let position = self.catalog().position()?;
        let mut previous = self.origin();
        // What still makes no sense although all that could be made again was.
        let unfolded: BTreeMap<u64, String> = self.catalog().damaged()?.into_iter().collect();
        self.monitor().begin("checking the log", Some(position.next), Unit::Things);
        for slot in 0..position.next {
            self.check_stop()?;
            let object = Key::entry(slot).to_string();
            let bad = |why: String| Damage { object: object.clone(), chunk: None, why };
            report.entries += 1;
            let is_void = self.catalog().is_void(slot)?;
            previous = match self.read_entry(slot)? {
                Some(Ok(Decoded::Entry(entry, hash))) => {
                    let follows = previous.is_none_or(|previous| previous == entry.previous);
                    match unfolded.get(&slot) {
                        _ if is_void => {}
                        _ if !follows => drop(damage.insert(bad("it does not follow the entry before it".into()))),
                        Some(why) => drop(senseless.insert(bad(why.clone()))),
                        None => {}
                    }
                    Some(hash)
                }
                Some(Ok(Decoded::Unknown { hash, .. })) => Some(hash),
                unreadable => {
                    if !is_void {
                        let why = unreadable.and_then(|entry| entry.err()).map_or("missing".into(), |e| said(&e));
                        damage.insert(bad(why));
                    }
                    None
                }
            };
            self.monitor().advance(1);
        }
        self.monitor().end();
        // What makes no sense only because others cannot be read is as it was written.
        if damage.is_empty() {
            damage = senseless;
        }
        Ok(damage)
    }

    /// What the log knows to be damaged, and what it does not.
    fn split_known(&self, damage: BTreeSet<Damage>) -> Result<(Vec<Damage>, Vec<Damage>)> {
        let bad = self.catalog().bad()?;
        let known: HashSet<(String, ChunkId)> =
            bad.into_iter().map(|(pack, chunk)| (Key::pack(pack.pack).to_string(), chunk)).collect();
        let is_known = |d: &Damage| known.contains(&(d.object.clone(), d.chunk.unwrap_or(WHOLE)));
        Ok(damage.into_iter().partition(is_known))
    }

    fn foreign(&self, known: &HashSet<PackId>, lying: &[PackId]) -> Result<Vec<PackId>> {
        let catalog = self.catalog();
        let mut foreign = Vec::new();
        for &pack in lying.iter().filter(|pack| !known.contains(pack)) {
            if catalog.pack(pack)?.is_none_or(|row| row.state == PackState::Swept) {
                foreign.push(pack);
            }
        }
        Ok(foreign)
    }

    fn verify_packs(&self, packs: &[PackRow], depth: Depth) -> Result<Findings> {
        let findings = Mutex::new(Findings::default());
        let lock = || findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let total = packs.iter().map(|pack| pack.bytes).sum();
        self.monitor().begin("checking packs", Some(total), Unit::Bytes);
        let mut whole: Vec<(PackRow, Footer)> = Vec::new();
        for pack in packs {
            self.check_stop()?;
            // It is looked for by its name: a listing may be late.
            match self.read_footer(pack) {
                Ok((footer, bytes)) => {
                    // Nothing is read with the help of a header.
                    if let Err(error) = unless_short(self.check_header(pack))? {
                        let object = Key::pack(pack.pack).to_string();
                        lock().damage.insert(Damage { object, chunk: None, why: said(&error) });
                    }
                    self.catalog().put_footer(pack, &bytes);
                    whole.push((pack.clone(), footer));
                }
                Err(error) if is_shortage(&error) => return Err(error),
                Err(error) => {
                    let mut found = lock();
                    found.damage.insert(Damage {
                        object: Key::pack(pack.pack).to_string(),
                        chunk: None,
                        why: said(&error),
                    });
                    found.bad_packs.insert(pack.pack);
                }
            }
        }
        if depth >= Depth::Stored {
            let packs = whole.iter().map(|(pack, _)| pack.clone()).collect();
            let set = (depth == Depth::Deep).then(|| self.pack_set(packs)).transpose()?;
            let frames = whole.iter().flat_map(|(pack, footer)| footer.rows.iter().map(move |row| (pack, row)));
            parallel::for_each(
                self.threads(),
                frames,
                || (ChunkTool::default(), Vec::new(), Vec::new()),
                |(tool, frame, chunk): &mut (ChunkTool, Vec<u8>, Vec<u8>), (pack, row)| {
                    self.check_stop()?;
                    // A difference is decoded when its base is: below.
                    let deep = set.as_ref().filter(|_| row.bases.is_empty());
                    let checked = if let Some(set) = deep {
                        chunk.resize(row.chunk_bytes as usize, 0);
                        set.read_copy(row.chunk, pack.pack, tool, chunk).map(drop)
                    } else {
                        frame.resize(row.frame_bytes as usize, 0);
                        self.read_frame(pack, row, frame)
                    };
                    let checked = unless_short(checked)?;
                    let mut found = lock();
                    found.frames += 1;
                    found.stored += u64::from(row.frame_bytes);
                    found.raw += if deep.is_some() { u64::from(row.chunk_bytes) } else { 0 };
                    if let Err(error) = checked {
                        let object = Key::pack(pack.pack).to_string();
                        found.damage.insert(Damage { object, chunk: Some(row.chunk), why: said(&error) });
                        found.bad_chunks.insert((pack.pack, row.chunk));
                    }
                    self.monitor().advance(row.frame_bytes.into());
                    Ok(())
                },
            )?;
            if let Some(set) = &set {
                self.verify_differences(&whole, set, &findings)?;
            }
        }
        self.monitor().end();
        Ok(findings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Decodes every difference once: from each chunk that is stored without a base to all that rest on it.
    fn verify_differences(&self, whole: &[(PackRow, Footer)], set: &PackSet, findings: &Mutex<Findings>) -> Result<()> {
        let mut resting: HashMap<ChunkId, Vec<Difference<'_>>> = HashMap::new();
        for (pack, row) in whole.iter().flat_map(|(pack, footer)| footer.rows.iter().map(move |row| (pack, row))) {
            row.bases.iter().for_each(|base| resting.entry(*base).or_default().push(Difference { pack, row }));
        }
        let roots = resting.keys().filter(|base| set.how_stored(**base).is_some_and(|how| how.depth == 0));
        let chains = Chains { store: self, resting: &resting, seen: Mutex::default(), findings };
        parallel::for_each(self.threads(), roots, ChunkTool::default, |tool: &mut ChunkTool, root| {
            // A root that cannot be read is known by now, and so is what rests on it.
            let Ok(bytes) = unless_short(set.read_whole(*root, tool))? else { return Ok(()) };
            chains.follow(*root, 0, &bytes, tool)
        })
    }

    fn check_header(&self, pack: &PackRow) -> Result<()> {
        let expected = pack::header(self.id(), pack.pack);
        let mut found = vec![0; expected.len()];
        self.backend().open(&Key::pack(pack.pack))?.read_exact_at(&mut found, 0)?;
        if found == expected {
            Ok(())
        } else {
            Err(Error::damaged(Key::pack(pack.pack).as_str(), "its header is not its own"))
        }
    }

    fn read_frame(&self, pack: &PackRow, row: &pack::Row, frame: &mut [u8]) -> Result<()> {
        self.backend().open(&Key::pack(pack.pack))?.read_exact_at(frame, row.offset)?;
        let bad = |why: crate::wire::WireError| Error::ChunkDamaged { chunk: row.chunk, pack: pack.pack, why: why.0 };
        pack::frame_body(frame, row).map(|_| ()).map_err(bad)
    }

    /// The checkpoints that damage reaches, and what of them is lost. Without damage nothing is read for it, unless
    /// every manifest is to be read anyway.
    fn affected(&self, findings: &Findings, slots: &BTreeSet<u64>, depth: Depth) -> Result<Vec<Affected>> {
        let sound = findings.bad_packs.is_empty() && findings.bad_chunks.is_empty() && slots.is_empty();
        if sound && depth < Depth::Deep {
            return Ok(Vec::new());
        }
        let rows = self.catalog().checkpoints(&Filter { superseded: true, ..Filter::default() })?;
        let mut affected = Vec::new();
        for row in rows {
            self.check_stop()?;
            let mut lost = self.lost(&row, findings)?;
            if slots.contains(&row.slot) {
                lost.insert(0, "its entry in the log".into());
            }
            if !lost.is_empty() {
                affected.push(Affected { checkpoint: row, lost });
            }
        }
        Ok(affected)
    }

    fn lost(&self, row: &CheckpointRow, findings: &Findings) -> Result<Vec<String>> {
        let packs = self.catalog().packs_of(row.slot)?;
        let sound: Vec<PackRow> = packs.into_iter().filter(|pack| !findings.bad_packs.contains(&pack.pack)).collect();
        let lost = Manifest::open_from(self.pack_set(sound)?, row.clone())
            .and_then(|manifest| manifest.lost(&|pack, chunk| findings.bad_chunks.contains(&(pack, chunk))));
        Ok(unless_short(lost)?
            .unwrap_or_else(|error| vec![format!("everything (its manifest cannot be read: {})", said(&error))]))
    }
}

/// A frame with a base.
#[derive(Clone, Copy)]
struct Difference<'a> {
    pack: &'a PackRow,
    row: &'a pack::Row,
}

/// Differences by what they rest on, while they are decoded.
struct Chains<'a> {
    store: &'a Store,
    resting: &'a HashMap<ChunkId, Vec<Difference<'a>>>,
    /// Chunks whose bytes were had, and what rests on them followed.
    seen: Mutex<HashSet<ChunkId>>,
    findings: &'a Mutex<Findings>,
}

impl Chains<'_> {
    /// Decodes all that rests on a chunk of these bytes. Depths bound how far this goes: what claims to be no deeper than
    /// its base is never read that way.
    fn follow(&self, chunk: ChunkId, depth: u8, bytes: &[u8], tool: &mut ChunkTool) -> Result<()> {
        if !self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(chunk) {
            return Ok(());
        }
        let resting = self.resting.get(&chunk).into_iter().flatten();
        for difference in resting.filter(|difference| difference.row.depth > depth) {
            self.store.check_stop()?;
            let Difference { pack, row } = *difference;
            let decoded = unless_short(self.decode(*difference, bytes, tool))?;
            {
                let mut found = self.findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                found.raw += u64::from(row.chunk_bytes);
                if let Err(error) = &decoded {
                    let object = Key::pack(pack.pack).to_string();
                    found.damage.insert(Damage { object, chunk: Some(row.chunk), why: said(error) });
                    found.bad_chunks.insert((pack.pack, row.chunk));
                }
            }
            if let Ok(bytes) = decoded {
                self.follow(row.chunk, row.depth, &bytes, tool)?;
            }
        }
        Ok(())
    }

    fn decode(&self, Difference { pack, row }: Difference<'_>, base: &[u8], tool: &mut ChunkTool) -> Result<Vec<u8>> {
        let bad = |why: String| Error::ChunkDamaged { chunk: row.chunk, pack: pack.pack, why };
        let mut frame = vec![0; row.frame_bytes as usize];
        self.store.read_frame(pack, row, &mut frame)?;
        let body = pack::frame_body(&frame, row).map_err(|e| bad(e.0))?;
        let mut bytes = vec![0; row.chunk_bytes as usize];
        let decoded = codec::decode(row.codec, body, codec::Base::Bytes(base), &mut tool.scratch, &mut bytes);
        decoded.map_err(|e| bad(e.to_string()))?;
        if ChunkId::of(&bytes) == row.chunk { Ok(bytes) } else { Err(bad("its bytes have another hash".into())) }
    }
}

/// What the process or the machine is short of says nothing of the store.
fn is_shortage(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM].iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
}

/// What was found, good or bad; or the error that nothing could be found out.
fn unless_short<T>(found: Result<T>) -> Result<Result<T>> {
    match found {
        Err(error) if is_shortage(&error) => Err(error),
        found => Ok(found),
    }
}

fn said(error: &Error) -> String {
    match error {
        Error::ObjectDamaged { why, .. } | Error::ChunkDamaged { why, .. } => why.clone(),
        Error::ObjectMissing { .. } => "missing".into(),
        other => match std::error::Error::source(other) {
            Some(cause) => format!("{other}: {cause}"),
            None => other.to_string(),
        },
    }
}
