//! treering: a content-addressed, incremental store for training checkpoints.
//!
//! Save every step and pay for what changed; list the history by step and metric; let old steps go; restore any kept
//! one, byte for byte. A store is a folder. There is no server.
//!
//! # The story in one page
//!
//! A **run** is a named training, a **step** its number, a **checkpoint** one saved step. A save cuts the bytes of
//! every tensor into **chunks**, each named by its BLAKE3 hash. A chunk that the store has is not written again. A new
//! one is encoded as a **frame** and put into a **pack**. The **manifest** says which chunks make which tensor; it is
//! made of chunks itself, so an unchanged part of it costs nothing either.
//!
//! The **log** is a row of numbered slots with one small **entry** each, linked by hashes. A checkpoint exists if and
//! only if the log has its commit entry, and that entry is written last, after all that it names is durable. A save
//! that dies halfway leaves the store as it was. Two writers want the same slot; one gets it, the other looks again.
//!
//! The **catalog** is what the log's entries add up to, in SQLite. It answers questions fast and can be deleted: it is
//! made again from the log.
//!
//! **Policies** say what stays. A collection asks them, forgets what none keeps, and deletes packs that no checkpoint
//! needs.
//!
//! In one line: packs, a log that names packs, chunks named by their hash; everything else is cache.
//!
//! # Entry points
//!
//! * [`Store::create`] and [`Store::open`]: everything begins there.
//! * [`Store::save`] takes [`save::Inputs`]: files, folders or tensors in memory.
//! * [`Store::restore`] writes a checkpoint back; [`Store::checkpoint`] opens one to look inside.
//! * [`Store::log`], [`Store::best`], [`Store::find`]: the history. [`Store::annotate`], [`Store::tag`],
//!   [`Store::forget`], [`Store::undo`], [`Store::fork`], [`Store::lease`] change what is said of it.
//! * [`Store::set_policy`], [`Store::gc`]: what stays, and the space of what does not.
//! * [`Store::verify`], [`Store::repair`], [`Store::rebuild`], [`Store::stats`]: is it sound, save what can be saved, make
//!   the catalog anew, how big is it. [`Store::upgrade`]: to the newest format.
//!
//! The library never prints: it reports through a [`monitor::Monitor`] and returns a report. Every error has a
//! [kind](Error::kind) for programs and a [hint](Error::hint) for people.
//!
//! # Save and restore
//!
//! ```
//! use treering::Store;
//! use treering::restore::RestoreOptions;
//! use treering::save::{Inputs, SaveOptions};
//!
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("model.safetensors");
//! # std::fs::write(&file, b"\x48\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}                  12345678")?;
//! let store = Store::create(folder.path().join("store"), None, Default::default())?;
//!
//! let inputs = Inputs::paths(&[(None, file.clone())], false)?;
//! let saved = store.save(&inputs, &SaveOptions { run: "mnist".into(), step: 100, ..Default::default() })?;
//! println!("{} bytes on disk for {}", saved.new_bytes, saved.sizes.raw);
//!
//! let output = folder.path().join("back.safetensors");
//! let restored = store.restore(&"mnist@100".parse()?, &output, &RestoreOptions::default())?;
//! assert!(restored.identical);
//! assert_eq!(std::fs::read(&file)?, std::fs::read(&output)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Tensors from memory
//!
//! ```
//! use treering::Store;
//! use treering::save::{Inputs, MemoryTensor, SaveOptions};
//! use treering::tensor::{DType, TensorMeta};
//!
//! # let folder = tempfile::tempdir()?;
//! let store = Store::create(folder.path().join("store"), None, Default::default())?;
//!
//! let bytes: Vec<u8> = [0.5f32, -1.0, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
//! let meta = TensorMeta { name: "layer.weight".into(), dtype: DType::new("F32"), shape: vec![3], bytes: 12 };
//! let tensor = MemoryTensor { meta, bytes: &bytes };
//! let inputs = Inputs::tensors(vec![(Some("model".into()), tensor)])?;
//! store.save(&inputs, &SaveOptions { run: "mnist".into(), step: 100, ..Default::default() })?;
//!
//! let mut read = Vec::new();
//! store.checkpoint(&"mnist@latest".parse()?)?.read_tensor("layer.weight", &mut read)?;
//! assert_eq!(read, bytes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # History
//!
//! ```
//! # use treering::save::{Inputs, MemoryTensor, SaveOptions};
//! # use treering::tensor::{DType, TensorMeta};
//! use treering::Store;
//! use treering::catalog::Filter;
//! use treering::format::entry::{Metrics, Number};
//! use treering::format::policy::Mode;
//!
//! # let folder = tempfile::tempdir()?;
//! # let store = Store::create(folder.path().join("store"), None, Default::default())?;
//! # let save = |step: u64, metrics: Metrics| {
//! #     let bytes = step.to_le_bytes();
//! #     let meta = TensorMeta { name: "w".into(), dtype: DType::new("U8"), shape: vec![8], bytes: 8 };
//! #     let inputs = Inputs::tensors(vec![(None, MemoryTensor { meta, bytes: &bytes })])?;
//! #     store.save(&inputs, &SaveOptions { run: "mnist".into(), step, metrics, ..Default::default() })
//! # };
//! for (step, loss) in [(100, 0.9), (200, 0.3), (300, 0.4)] {
//!     save(step, Metrics::from([("loss".to_string(), Number(loss))]))?;
//! }
//!
//! let all = store.log(&Filter { run: Some("mnist".into()), ..Default::default() })?;
//! assert_eq!(all.len(), 3);
//!
//! // The direction of a metric is said once for the run; after that, an address can use it.
//! store.set_mode("mnist", "loss", Mode::Min)?;
//! assert_eq!(store.best("mnist", "loss", None, 1)?[0].step, 200);
//! assert_eq!(store.find(&"mnist@best:loss".parse()?)?.step, 200);
//! assert_eq!(store.find(&"mnist@latest".parse()?)?.step, 300);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Keeping some, collecting the rest
//!
//! ```
//! # use treering::save::{Inputs, MemoryTensor, SaveOptions};
//! # use treering::tensor::{DType, TensorMeta};
//! use treering::Store;
//! use treering::catalog::Filter;
//! use treering::format::policy::{Keep, Policy};
//! use treering::gc::GcOptions;
//!
//! # let folder = tempfile::tempdir()?;
//! # let store = Store::create(folder.path().join("store"), None, Default::default())?;
//! # for step in 1..=4u64 {
//! #     let bytes = step.to_le_bytes();
//! #     let meta = TensorMeta { name: "w".into(), dtype: DType::new("U8"), shape: vec![8], bytes: 8 };
//! #     let inputs = Inputs::tensors(vec![(None, MemoryTensor { meta, bytes: &bytes })])?;
//! #     store.save(&inputs, &SaveOptions { run: "mnist".into(), step, ..Default::default() })?;
//! # }
//! // Of four saved steps the newest two stay.
//! store.set_policy("mnist", &Policy { keeps: vec![Keep::Last(2)], thins: vec![] })?;
//!
//! let planned = store.gc(&GcOptions { dry_run: true, ..Default::default() })?;
//! let going: Vec<u64> = planned.checkpoints.iter().filter(|v| v.goes()).map(|v| v.checkpoint.step).collect();
//! assert_eq!(going, [1, 2]);
//!
//! store.gc(&GcOptions::default())?;
//! assert_eq!(store.log(&Filter::default())?.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Verification
//!
//! ```
//! # use treering::save::{Inputs, MemoryTensor, SaveOptions};
//! # use treering::tensor::{DType, TensorMeta};
//! use treering::Store;
//! use treering::verify::Depth;
//!
//! # let folder = tempfile::tempdir()?;
//! # let store = Store::create(folder.path().join("store"), None, Default::default())?;
//! # let meta = TensorMeta { name: "w".into(), dtype: DType::new("U8"), shape: vec![8], bytes: 8 };
//! # let inputs = Inputs::tensors(vec![(None, MemoryTensor { meta, bytes: b"12345678" })])?;
//! # store.save(&inputs, &SaveOptions { run: "mnist".into(), step: 1, ..Default::default() })?;
//! // Every chunk is decoded and hashed. Damage does not end it: the report names what each damaged object reaches.
//! let report = store.verify(Depth::Deep)?;
//! assert!(report.is_sound(), "{:?}", report.damage);
//! assert_eq!(report.checkpoints, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The map
//!
//! A floor uses only floors below it; a test reads the sources and holds that. What a part must not know is what keeps
//! it small.
//!
//! | floor | modules | must not know |
//! |---|---|---|
//! | errands | [`history`], [`repair`], [`stats`], [`encodings`], [`measure`] | what is in the body of a frame |
//! | journeys | [`save`], [`restore`], [`retain`], [`gc`], [`verify`] | each other; they meet in the store |
//! | the store | [`store`] | what a save or a collection is for |
//! | places | [`backend`], [`catalog`] | `backend`: what is in an object. `catalog`: that objects exist |
//! | files | [`disk`] | what a store means by its files |
//! | formats | [`format`](mod@format) | where anything lies; it reads and writes slices |
//! | bytes | [`chunk`], [`codec`] | tensors, packs, stores; pure functions of slices |
//! | ground | [`error`], [`id`], [`env`](mod@env), [`monitor`], [`tensor`], [`wire`] | anything else of ours |
//!
//! The command line stands above all of this and sees only what is public.

// -- ground: words and numbers; no I/O
pub mod env;
pub mod error;
pub mod id;
pub mod monitor;
mod parallel;
pub mod tensor;
pub mod wire;
// -- bytes: pure functions of slices
pub mod chunk;
pub mod codec;
// -- formats: what is stored, field by field
pub mod format;
// -- files and places: where bytes and facts lie
pub mod backend;
pub mod catalog;
pub mod disk;
// -- the opened store
pub mod store;
// -- journeys
pub mod gc;
pub mod restore;
pub mod retain;
pub mod save;
pub mod verify;
// -- errands
pub mod doctor;
pub mod encodings;
pub mod export;
pub mod history;
pub mod measure;
pub mod repair;
pub mod stats;

pub use error::{Error, ErrorKind, Result};
pub use store::Store;
