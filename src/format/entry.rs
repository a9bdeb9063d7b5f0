//! An entry of the log: one thing that happened to the store, in a numbered slot.
//!
//! ```text
//! "TRLG" · version u16 · kind u16 · store id 16 · slot u64 · previous entry's hash 32 · nonce 16 · save id 16
//! · time i64 (nanoseconds since the epoch; for people) · begin u64 · length of the body u32 · body (JSON) · BLAKE3 of all before 32
//! ```
//! That last hash is the entry's own; the next entry repeats it, and slot 0 repeats the hash of `treering.json`.
//! `begin` is the first slot that the writer had not folded when its work began. The save id is that of the save, or
//! zeros.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::env::Time;
use crate::error::{Error, Result};
use crate::format::keys::Key;
use crate::format::manifest::Stored;
use crate::format::policy::{Mode, Policy};
use crate::id::{ChunkId, Hash, PackId, SaveId, StoreId};
use crate::wire::{Reader, WireError, Write};

/// An entry is never longer.
pub const BYTES_MAX: usize = 1 << 20;
/// What surrounds the body.
const FRAME_BYTES: usize = 4 + 2 + 2 + 16 + 8 + 32 + 16 + 16 + 8 + 8 + 4 + 32;
const MAGIC: &[u8; 4] = b"TRLG";
const VERSION: u16 = 0;

/// A whole entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its place in the log.
    pub slot: u64,
    /// The hash of the entry before.
    pub previous: Hash,
    /// Random bits by which a writer knows its own entry again.
    pub nonce: [u8; 16],
    /// The save, for a commit, an amend, a repack, an abort.
    pub save: SaveId,
    /// When, by the writer's clock.
    pub time: Time,
    /// The first slot that the writer had not seen when it began.
    pub begin: u64,
    /// What happened.
    pub body: Body,
}

/// A metric's value. Finite ones are JSON numbers, the others the strings "NaN", "Infinity" and "-Infinity".
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Number(pub f64);

/// Metrics by name.
pub type Metrics = BTreeMap<String, Number>;

macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident = $kind:literal),* $(,)?) => {
        /// What an entry says. The closed table of kinds; a number is never used for anything else.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(clippy::large_enum_variant, reason = "nearly every entry is a commit")]
        pub enum Body {
            $($(#[$doc])* $name($name),)*
        }

        impl Body {
            /// The number of its kind.
            pub fn kind(&self) -> u16 {
                match self { $(Body::$name(_) => $kind,)* }
            }

            /// The word for its kind.
            pub fn word(&self) -> &'static str {
                match self { $(Body::$name(_) => stringify!($name),)* }
            }

            /// As JSON.
            pub fn encode(&self) -> Vec<u8> {
                match self { $(Body::$name(body) => encode_json(body),)* }
            }

            fn decode(kind: u16, bytes: &[u8]) -> Option<std::result::Result<Body, WireError>> {
                Some(match kind {
                    $($kind => decode_json(bytes).map(Body::$name),)*
                    _ => return None,
                })
            }
        }
    };
}

bodies! {
    /// A checkpoint.
    Commit = 1,
    /// A checkpoint has another manifest now: components were dropped.
    Amend = 2,
    /// Metrics or a note, after the save.
    Annotate = 3,
    /// Tags come and go.
    Tag = 4,
    /// What a run keeps, and which way its metrics go.
    Settings = 5,
    /// A lease: a checkpoint stays whatever the policy says.
    Pin = 6,
    /// Leases that ended.
    Unpin = 7,
    /// Checkpoints that nobody wants any more, each with the reason.
    Forget = 8,
    /// Forgotten or superseded checkpoints that are wanted after all.
    Undo = 9,
    /// Packs that no checkpoint may use any more: they will be deleted.
    Condemn = 10,
    /// Condemned packs that are gone.
    Swept = 11,
    /// Packs that take the place of others.
    Repack = 12,
    /// A save that will never commit.
    Abort = 13,
    /// Slots whose entries cannot be read, or make no sense any more, and what stands in their place.
    Void = 14,
    /// Copies that are known to be damaged.
    Bad = 15,
    /// Good copies for the checkpoints that need damaged ones.
    Heal = 16,
    /// What whoever uses the store must know from now on.
    Upgrade = 18,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// The training.
    pub run: String,
    /// Its step.
    pub step: u64,
    /// The slot of the checkpoint that it continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// The root of its manifest.
    pub manifest: Stored,
    /// The id of its schema: names, types and shapes.
    pub schema: ChunkId,
    /// The packs that the save wrote.
    pub packs: Vec<NewPack>,
    /// The other packs that it needs.
    pub needs: Needs,
    /// How many tensors.
    pub tensors: u64,
    /// Sizes.
    pub sizes: Sizes,
    /// Raw bytes of each component.
    pub components: BTreeMap<String, u64>,
    /// Those of them that the manifest does not have: a policy dropped them from what was forked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<String>,
    /// Measured values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: Metrics,
    /// Names for it within the run; taken from any other checkpoint that had them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// A line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The run's configuration, when it is new or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// Where the save came from, when that is new or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Value>,
    /// Slots of checkpoints of the run that this one leaves behind: above its parent, and not its ancestors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<u64>,
    /// The slot of the checkpoint of the same step that this one takes the place of; that one is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
}

/// A pack that an entry brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPack {
    /// Which of the save's packs.
    pub index: u32,
    /// Its length.
    pub bytes: u64,
    /// The hash of its footer.
    pub footer: Hash,
}

/// The packs of other saves that a checkpoint needs: those of `base`, plus and minus some.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// The slot of a live checkpoint whose packs are the beginning; none: the empty set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Needed too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plus: Vec<PackId>,
    /// Not needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub minus: Vec<PackId>,
}

/// What a save cost, in bytes. `unchanged`, `deduplicated` and `encoded` add up to `raw`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Of the input.
    pub raw: u64,
    /// Of it, the same as in the parent at the same place.
    pub unchanged: u64,
    /// Of it, found elsewhere in the store or in the save.
    pub deduplicated: u64,
    /// Of it, new.
    pub encoded: u64,
    /// What the new bytes became: all packs of the save.
    pub stored: u64,
}

/// A checkpoint has another manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amend {
    /// The checkpoint.
    pub slot: u64,
    /// The root of its manifest from now on.
    pub manifest: Stored,
    /// Packs that hold what the new manifest needs.
    pub packs: Vec<NewPack>,
    /// The other packs that it needs from now on.
    pub needs: Needs,
    /// The components that were dropped.
    pub dropped: Vec<String>,
    /// The rule that dropped them.
    pub rule: String,
}

/// Metrics or a note, after the save.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotate {
    /// The checkpoint.
    pub slot: u64,
    /// Metrics to add or to change.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: Metrics,
    /// A note that takes the place of the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Tags come and go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// The checkpoint.
    pub slot: u64,
    /// Tags that it has from now on, and no other checkpoint of its run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Tags that it loses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// What a run keeps, and which way its metrics go. Absent fields stay as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The run.
    pub run: String,
    /// All rules from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Directions to set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub modes: BTreeMap<String, Mode>,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The checkpoint.
    pub slot: u64,
    /// gc ends it after this time.
    pub until: Time,
    /// For whom or what.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub purpose: String,
}

/// Leases that ended: the slots of their pins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unpin {
    /// Slots of pin entries.
    pub pins: Vec<u64>,
}

/// Checkpoints that nobody wants any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    /// Their slots.
    pub slots: Vec<u64>,
    /// Who or which rule says so: "asked", "policy".
    pub reason: String,
}

/// Forgotten or superseded checkpoints that are wanted after all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// Their slots.
    pub slots: Vec<u64>,
}

/// Packs that no checkpoint may use any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condemn {
    /// Which.
    pub packs: Vec<PackId>,
}

/// Condemned packs that are gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swept {
    /// Which.
    pub packs: Vec<PackId>,
}

/// Packs that take the place of others in every live checkpoint; the old ones are condemned by this entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repack {
    /// The new packs, of this entry's save id.
    pub packs: Vec<NewPack>,
    /// The old ones. Whoever needed one of them needs all of the new ones instead.
    pub replaces: Vec<PackId>,
}

/// A save that will never commit; its packs are garbage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// Packs of it that were found.
    pub packs: Vec<PackId>,
}

/// Slots whose entries have no effect, now and for every reader that comes later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Void {
    /// The slots, all before this entry's own.
    pub slots: Vec<VoidSlot>,
}

/// A slot without effect of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoidSlot {
    /// Which.
    pub slot: u64,
    /// What takes effect in that slot instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Remade>,
}

/// An entry that was made again from what packs say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remade {
    /// The save.
    pub save: SaveId,
    /// When, as far as that is known.
    pub time: Time,
    /// What it said.
    pub body: RemadeBody,
}

/// The kinds of entries that bring packs, and so can be made again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "nearly every one is a commit")]
pub enum RemadeBody {
    /// A checkpoint.
    Commit(Commit),
    /// Another manifest for a checkpoint.
    Amend(Amend),
    /// Packs in the place of others.
    Repack(Repack),
    /// Good copies.
    Heal(Heal),
}

/// All packs of a save: those of others that its footers name, which only a joint save has, and its own, which count on.
fn is_whole(others: &[NewPack], found: &[NewPack]) -> bool {
    let mut own: Vec<u32> = found.iter().filter(|pack| !others.contains(pack)).map(|pack| pack.index).collect();
    own.sort_unstable();
    let first = own.first().copied();
    let counts_on = own.iter().zip(first.unwrap_or(0)..).all(|(index, expected)| *index == expected);
    found.len() == others.len() + own.len() && counts_on && (first == Some(0) || !others.is_empty())
}

impl RemadeBody {
    /// From the body in a pack's footer, with the packs of its save that there are, if these are all.
    pub fn from_footer(body: &[u8], new: Vec<NewPack>) -> Option<RemadeBody> {
        if let Ok(commit) = decode_json::<Commit>(body) {
            if !is_whole(&commit.packs, &new) {
                return None;
            }
            let sizes = Sizes { stored: new.iter().map(|pack| pack.bytes).sum(), ..commit.sizes };
            return Some(RemadeBody::Commit(Commit { packs: new, sizes, ..commit }));
        }
        if !is_whole(&[], &new) {
            return None;
        }
        if let Ok(amend) = decode_json::<Amend>(body) {
            return Some(RemadeBody::Amend(Amend { packs: new, ..amend }));
        }
        if let Ok(repack) = decode_json::<Repack>(body) {
            return Some(RemadeBody::Repack(Repack { packs: new, ..repack }));
        }
        decode_json::<Heal>(body).ok().map(|heal| RemadeBody::Heal(Heal { packs: new, ..heal }))
    }

    /// From a body that was found elsewhere.
    pub fn from_body(body: Body) -> Option<RemadeBody> {
        Some(match body {
            Body::Commit(body) => RemadeBody::Commit(body),
            Body::Amend(body) => RemadeBody::Amend(body),
            Body::Repack(body) => RemadeBody::Repack(body),
            Body::Heal(body) => RemadeBody::Heal(body),
            _ => return None,
        })
    }

    /// As the body of an entry.
    pub fn body(&self) -> Body {
        match self.clone() {
            RemadeBody::Commit(body) => Body::Commit(body),
            RemadeBody::Amend(body) => Body::Amend(body),
            RemadeBody::Repack(body) => Body::Repack(body),
            RemadeBody::Heal(body) => Body::Heal(body),
        }
    }
}

/// Copies that are known to be damaged: nothing new relies on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bad {
    /// Where they lie.
    pub copies: Vec<BadCopies>,
}

/// What of a pack is damaged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BadCopies {
    /// The pack.
    pub pack: PackId,
    /// The chunks; none: all that it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<ChunkId>,
}

/// Good copies of what lies damaged elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heal {
    /// New packs, of this entry's save id.
    pub packs: Vec<NewPack>,
    /// Other packs that hold good copies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<PackId>,
    /// The packs whose damaged copies these make good.
    pub heals: Vec<PackId>,
}

/// What whoever uses the store must know from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// The format of the store, if it was less before.
    pub format: u32,
    /// Features beyond the format that readers must know, and so writers as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<String>,
    /// Features that writers must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writers: Vec<String>,
}

/// What an entry's bytes are: an entry, or one of a kind that a later version knows.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// An entry.
    Entry(Box<Entry>, Hash),
    /// Sound, but of a kind that this version does not know.
    Unknown {
        /// The number of its kind.
        kind: u16,
        /// Its hash.
        hash: Hash,
    },
}

impl Entry {
    /// As it is stored, and its hash.
    pub fn encode(&self, store: StoreId) -> Result<(Vec<u8>, Hash)> {
        let body = self.body.encode();
        if body.len() + FRAME_BYTES > BYTES_MAX {
            return Err(Error::Limit {
                what: format!("a log entry of {} bytes", body.len()),
                limit: format!("{BYTES_MAX} bytes"),
            });
        }
        let mut out = Vec::with_capacity(FRAME_BYTES + body.len());
        out.put(MAGIC);
        out.put_u16(VERSION);
        out.put_u16(self.body.kind());
        out.put(&store.0);
        out.put_u64(self.slot);
        out.put(&self.previous.0);
        out.put(&self.nonce);
        out.put(&self.save.0);
        out.put_u64(self.time.0 as u64);
        out.put_u64(self.begin);
        out.put_u32(body.len() as u32);
        out.put(&body);
        let hash = Hash::of(&out);
        out.put(&hash.0);
        Ok((out, hash))
    }

    /// Reads the bytes found in `slot`. Whether the chain holds is for the caller to check.
    pub fn decode(bytes: &[u8], store: StoreId, slot: u64) -> Result<Decoded> {
        parse(bytes, store, slot).map_err(|e| Error::damaged(Key::entry(slot).as_str(), e.0))
    }
}

/// The store that an entry says it belongs to, if its hash is right.
pub(crate) fn owner(bytes: &[u8]) -> Option<StoreId> {
    let (content, hash) = bytes.split_last_chunk::<32>()?;
    let owner = content.strip_prefix(MAGIC)?.get(4..)?.first_chunk()?;
    (Hash::of(content) == Hash(*hash)).then_some(StoreId(*owner))
}

fn parse(bytes: &[u8], store: StoreId, slot: u64) -> std::result::Result<Decoded, WireError> {
    if bytes.len() > BYTES_MAX {
        return Err("it is too long".into());
    }
    let (content, hash) = bytes.split_last_chunk::<32>().ok_or(WireError::from("it is too short"))?;
    let hash = Hash(*hash);
    if Hash::of(content) != hash {
        return Err("its hash is wrong".into());
    }
    let mut from = Reader::new(content);
    if &from.array::<4>()? != MAGIC || from.u16()? != VERSION {
        return Err("not an entry of this version".into());
    }
    let kind = from.u16()?;
    let found = StoreId(from.array()?);
    if found != store {
        return Err(WireError(format!("it belongs to store {found}")));
    }
    let found = from.u64()?;
    if found != slot {
        return Err(WireError(format!("it is entry {found}")));
    }
    let (previous, nonce, save) = (Hash(from.array()?), from.array()?, SaveId(from.array()?));
    let (time, begin) = (Time(from.u64()? as i64), from.u64()?);
    let length = from.u32()? as usize;
    let body = from.bytes(length)?;
    from.end()?;
    match Body::decode(kind, body) {
        None => Ok(Decoded::Unknown { kind, hash }),
        Some(body) => {
            Ok(Decoded::Entry(Box::new(Entry { slot, previous, nonce, save, time, begin, body: body? }), hash))
        }
    }
}

fn encode_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("entries hold nothing that JSON has no form for")
}

/// One meaning has one spelling: what does not come back byte for byte is refused.
fn decode_json<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, WireError> {
    let body: T = serde_json::from_slice(bytes).map_err(|e| WireError(e.to_string()))?;
    if encode_json(&body) == bytes { Ok(body) } else { Err("a body that is not in its canonical form".into()) }
}

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            v if v.is_nan() => to.serialize_str("NaN"),
            f64::INFINITY => to.serialize_str("Infinity"),
            f64::NEG_INFINITY => to.serialize_str("-Infinity"),
            v => to.serialize_f64(v),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Number, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(f64),
            Word(String),
        }
        Ok(Number(match Form::deserialize(from)? {
            Form::Number(v) => v,
            Form::Word(word) => match word.as_str() {
                "NaN" => f64::NAN,
                "Infinity" => f64::INFINITY,
                "-Infinity" => f64::NEG_INFINITY,
                other => return Err(serde::de::Error::custom(format!("{other:?} is not a number"))),
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(body: Body) -> Entry {
        Entry {
            slot: 9,
            previous: Hash([4; 32]),
            nonce: [5; 16],
            save: SaveId([6; 16]),
            time: Time(-3),
            begin: 8,
            body,
        }
    }

    fn commit(run: String, step: u64, value: f64) -> Body {
        Body::Commit(Commit {
            run,
            step,
            parent: Some(3),
            manifest: Stored::empty(),
            schema: ChunkId([1; 32]),
            packs: vec![NewPack { index: 0, bytes: 5, footer: Hash([2; 32]) }],
            needs: Needs { base: Some(3), plus: vec![PackId { save: SaveId([1; 16]), index: 1 }], minus: vec![] },
            tensors: 1,
            sizes: Sizes { raw: 4, encoded: 4, ..Sizes::default() },
            components: [("model".to_string(), 4)].into(),
            dropped: vec!["ema".into()],
            metrics: [("loss".to_string(), Number(value)), ("nan".to_string(), Number(f64::NEG_INFINITY))].into(),
            tags: vec!["a".into()],
            note: Some("ö\n".into()),
            config: Some(serde_json::json!({"b": 1, "a": [1.5, null]})),
            provenance: None,
            supersedes: vec![1],
            replaces: None,
        })
    }

    proptest! {
        #[test]
        fn a_commit_comes_back(run: String, step: u64, bits: u64) {
            let entry = entry(commit(run, step, f64::from_bits(bits)));
            let (bytes, hash) = entry.encode(StoreId([1; 16])).unwrap();
            let Decoded::Entry(again, found) = Entry::decode(&bytes, StoreId([1; 16]), 9).unwrap() else { panic!() };
            prop_assert_eq!(found, hash);
            prop_assert_eq!(again.encode(StoreId([1; 16])).unwrap().0, bytes);
        }

        #[test]
        fn any_changed_bit_is_found(at: prop::sample::Index, bit in 0u8..8) {
            let (mut bytes, _) = entry(commit("r".into(), 1, 0.5)).encode(StoreId([1; 16])).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Entry::decode(&bytes, StoreId([1; 16]), 9).is_err());
            prop_assert!(Entry::decode(&bytes[..at], StoreId([1; 16]), 9).is_err());
        }
    }

    #[test]
    fn an_entry_says_where_it_belongs() {
        let (bytes, hash) = entry(Body::Undo(Undo { slots: vec![1] })).encode(StoreId([1; 16])).unwrap();
        assert!(Entry::decode(&bytes, StoreId([2; 16]), 9).is_err());
        assert!(Entry::decode(&bytes, StoreId([1; 16]), 8).is_err());
        assert!(matches!(Entry::decode(&bytes, StoreId([1; 16]), 9), Ok(Decoded::Entry(_, found)) if found == hash));
    }

    #[test]
    fn an_unknown_kind_is_told_from_damage() {
        let (mut bytes, _) = entry(Body::Undo(Undo { slots: vec![1] })).encode(StoreId([1; 16])).unwrap();
        bytes[6] = 200;
        let end = bytes.len() - 32;
        let hash = Hash::of(&bytes[..end]);
        bytes[end..].copy_from_slice(&hash.0);
        assert_eq!(Entry::decode(&bytes, StoreId([1; 16]), 9).unwrap(), Decoded::Unknown { kind: 200, hash });
    }

    #[test]
    fn another_spelling_of_the_same_body_is_refused() {
        assert!(Body::decode(9, br#"{"slots":[1]}"#).unwrap().is_ok());
        for other in [
            &br#"{"slots": [1]}"#[..],
            br#"{"slots":[1],"slots":[1]}"#,
            br#"{"slots":[1],"more":2}"#,
            br#"{"slots":[1.0]}"#,
        ] {
            assert!(Body::decode(9, other).unwrap().is_err());
        }
    }
}
