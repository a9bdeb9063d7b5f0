//! Where the first seeds come from: small things of every kind, as the library writes them.

use std::path::Path;

use treering::codec::{self, Codec, Input, Scratch};
use treering::format::config::{Config, Shared};
use treering::format::entry::{Body, Decoded, Entry, Upgrade};
use treering::format::keys::Key;
use treering::format::manifest::{Block, Recipe, Root, Schema};
use treering::format::pack::{self, Footer, TRAILER_BYTES};
use treering::format::safetensors;
use treering::id::{ChunkId, PackId, StoreId};
use treering::save::{BoxOf, Inputs, JointPart, MemoryTensor, SaveOptions};
use treering::tensor::boxes::TensorBox;
use treering::tensor::{DType, Layout, TensorMeta};

use crate::folder_of;
use crate::helpers::{at, metrics, options, trained};
use crate::sim::{self, Fate};

/// A store with entries of all kinds that one can ask for.
fn eventful() -> treering::disk::SimulatedDisk {
    let (disk, fate) = (treering::disk::SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    for step in 0..3 {
        let with = SaveOptions {
            metrics: metrics(&[("loss", 0.5), ("nan", f64::NAN)]),
            tags: vec![format!("t{step}")],
            note: Some("a note".into()),
            state: Some(serde_json::json!({ "epoch": step })),
            config: Some(serde_json::json!({ "lr": 1e-4 })),
            ..options("r", step)
        };
        sim::save(&store, &trained(step), &with).unwrap();
    }
    store.annotate(&at("r@1"), metrics(&[("loss", 0.25)]), Some("n".into())).unwrap();
    store.tag(&at("r@1"), &["x".into()], &["t1".into()]).unwrap();
    store
        .set_policy("r", &["keep-last 2", "thin optimizer:1"].iter().map(|rule| rule.parse().unwrap()).collect())
        .unwrap();
    store.set_mode("r", "loss", treering::format::policy::Mode::Min).unwrap();
    store.fork("s", &at("r@2")).unwrap();
    store.lease(&at("r@1"), std::time::Duration::from_secs(60), "me").unwrap();
    store.forget(&[0]).unwrap();
    store.undo(&at("r@0")).unwrap();
    let pack = disk.files().into_iter().find(|path| path.starts_with("/store/packs")).unwrap();
    let whole = disk.content(&pack).unwrap();
    fate.pass(120, &disk);
    store.gc(&Default::default()).unwrap();
    store.gc(&Default::default()).unwrap();
    if let Some(pack) = disk.files().into_iter().find(|path| path.starts_with("/store/packs")) {
        let mut bytes = disk.content(&pack).unwrap_or(whole);
        bytes[60] ^= 1;
        disk.damage(&pack, Some(bytes));
    }
    store.repair(false).unwrap();
    sim::save(&store, &trained(2), &options("u", 9)).unwrap();
    disk
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = folder_of(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
}

#[test]
#[ignore = "writes the seeds that the format itself gives"]
fn write_seeds() {
    if std::env::var_os("TREERING_WRITE_SEEDS").is_none() {
        return;
    }
    let disk = eventful();
    let store = sim::store_id(&disk);
    let mut history = Vec::new();
    let write_line = |line: &[u8], word: &str| {
        write("log_entry", word, line);
        write("whole_log", word, line);
        // In the newest entry's place, too.
        write("whole_log", &format!("{word}-instead"), &[&[line[0] + 0x80 + 12], &line[1..]].concat());
    };
    for slot in sim::slots(&disk) {
        let bytes = disk.content(&std::path::Path::new(sim::ROOT).join(Key::entry(slot).as_str())).unwrap();
        let Ok(Decoded::Entry(entry, _)) = Entry::decode(&bytes, store, slot) else { panic!() };
        let line = [&[entry.body.kind() as u8], &entry.body.encode()[..]].concat();
        let word = entry.body.word().to_lowercase();
        write_line(&line, &word);
        history.push(line);
        if let Body::Commit(commit) = &entry.body {
            let index = commit.packs.first().map_or(0, |pack| pack.index);
            write_pack(&disk, store, PackId { save: entry.save, index });
        }
    }
    for (word, readers) in [("upgrade", vec![]), ("upgrade-to-more", vec!["more".into()])] {
        let body = Body::Upgrade(Upgrade { format: 1, readers, writers: vec!["words".into()] });
        let line = [&[body.kind() as u8], &body.encode()[..]].concat();
        write_line(&line, word);
        history.push(line);
    }
    write("fold", "history", &history.join(&b'\n'));
    history.reverse();
    write("fold", "backwards", &history.join(&b'\n'));
    write_manifests();
    write_receipt();
    write_bodies();
    write_words();
}

fn write_pack(disk: &treering::disk::SimulatedDisk, store: StoreId, id: PackId) {
    let Some(bytes) = disk.content(&std::path::Path::new(sim::ROOT).join(Key::pack(id).as_str())) else { return };
    let end = bytes.len() - TRAILER_BYTES as usize;
    let (length, _) = pack::decode_trailer(bytes[end..].try_into().unwrap(), id, bytes.len() as u64).unwrap();
    let footer = &bytes[end - length as usize..end];
    assert!(Footer::decode(footer, id, store, bytes.len() as u64).is_ok());
    // Behind what each footer of a target begins with, and before the bytes of the frames that it fills.
    let frames = bytes.len() as u64 - 88 - length;
    let seed = [&footer[2 + 16 + 16 + 4..], &(frames as u8).to_le_bytes()].concat();
    write("pack_footer", &format!("{:02x}", id.save.0[0]), &seed);
}

fn write_manifests() {
    let stored = |n: u8, bytes: u64| treering::format::manifest::Stored { id: ChunkId([n; 32]), recipe: n == 3, bytes };
    let root = Root {
        folder: true,
        schema: stored(1, 90),
        components: vec![Some(vec![ChunkId([2; 32])]), None],
        files: vec![treering::format::manifest::File { name: "a.safetensors".into(), header: Some(stored(3, 40)) }],
        side_files: vec![("sub/file".into(), stored(4, 7))],
        state: Some(stored(5, 12)),
    };
    write("manifest", "root", &root.encode());
    let tensor = |name: &str, shape: Vec<u64>, bytes, alias| treering::format::manifest::SchemaTensor {
        component: 0,
        file: 0,
        meta: TensorMeta { name: name.into(), dtype: DType::new("F32"), shape, bytes },
        alias,
        boxes: Vec::new(),
    };
    let tensors =
        vec![tensor("a", vec![2, 3], 24, None), tensor("b", vec![], 4, None), tensor("c", vec![6], 24, Some(0))];
    let mut schema = Schema { components: vec!["model".into()], files: 1, tensors };
    write("manifest", "schema", &schema.encode());
    let column = |at, length| TensorBox { offsets: vec![0, at], lengths: vec![2, length] };
    schema.tensors[0].boxes = vec![column(0, 1), column(1, 2)];
    write("manifest", "boxes", &schema.encode());
    write("manifest", "block", &Block(vec![(false, ChunkId([6; 32])), (true, ChunkId([7; 32]))]).encode());
    let recipe = Recipe(vec![(ChunkId([8; 32]), 300), (ChunkId([9; 32]), 20)]);
    write("manifest", "recipe", &[&320u64.to_le_bytes(), &recipe.encode()[..]].concat());
}

fn write_receipt() {
    let (disk, fate) = (treering::disk::SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    let joint = store.begin_joint().unwrap();
    let tensors = trained(0);
    let given = tensors.iter().map(|tensor| {
        let (name, dtype) = (tensor.name.clone(), DType::new(tensor.dtype));
        let (shape, whole) = (vec![tensor.shape[0], 1], vec![tensor.shape[0], 2]);
        let meta = TensorMeta { name, dtype, shape, bytes: tensor.bytes.len() as u64 };
        (None, MemoryTensor { meta, bytes: &tensor.bytes }, Some(BoxOf { shape: whole, offsets: vec![0, 1] }))
    });
    let part = JointPart { save: joint.id(), rank: 0, ranks: 2 };
    store.save_part(&part, &Inputs::shares(given.collect()).unwrap(), &options("r", 1), "a note").unwrap();
    let receipt = disk.content(Path::new(&format!("/store/parts/{}/0", joint.id()))).unwrap();
    // The target adds the hash.
    write("receipt", "boxes", &receipt[..receipt.len() - 32]);
}

fn write_bodies() {
    let (before, after) = (&trained(0)[2].bytes[..800], &trained(1)[2].bytes[..800]);
    let float = Layout::Float { width: 4, mantissa_bits: 23 };
    let codecs: [(u8, &dyn Codec); 6] = [
        (0, &codec::Raw),
        (1, &codec::Planes),
        (2, &codec::Zstd),
        (3, &codec::Delta),
        (4, &codec::Cast),
        (5, &codec::Patch),
    ];
    for (number, codec) in codecs {
        let halves = codec.id() == codec::CodecId::CAST;
        let bytes: Vec<u8> = if halves { trained(0)[0].bytes[..400].to_vec() } else { after.to_vec() };
        let base = (codec.bases() > 0).then_some(before);
        let layout = if halves { Layout::Float { width: 2, mantissa_bits: 7 } } else { float };
        let mut body = Vec::new();
        codec.encode(Input { bytes: &bytes, layout, base, small: true }, &mut Scratch::new(), &mut body);
        let base = base.unwrap_or_default();
        // The first bytes say how much of the rest is the base, and how long the chunk is.
        let share =
            (0..=255u8).find(|&share| (base.len() + body.len()) * usize::from(share) / 255 >= base.len()).unwrap();
        let padded = (0..512).find(|more| (base.len() + body.len() + more) * usize::from(share) / 255 == base.len());
        let rest = [base, &body, &vec![0; padded.unwrap_or(0)]].concat();
        let how = u8::from(base.len() != bytes.len());
        write(
            "codec_frame",
            &format!("{number}"),
            &[&[number, how, (bytes.len() / 8) as u8, share], &rest[..]].concat(),
        );
    }
    for (name, how) in [("bytes", 0), ("integers", 6), ("floats", 10), ("halves", 9)] {
        write("codec_round", name, &[&[how, 1, 0, 0], &before[..400], &after[..400]].concat());
    }
    // Acts on the frames of a pack: another depth, base, length, body.
    let acts: [(&str, &[u8]); 6] = [
        ("depths", &[1, 0, 3, 0, 1, 1, 0, 0, 1, 2, 16, 0]),
        ("bases", &[2, 0, 0, 1, 2, 1, 0, 1, 2, 2, 1, 2]),
        ("lengths", &[3, 0, 1, 0, 3, 1, 255, 23, 3, 2, 0, 0]),
        ("swapped", &[4, 0, 1, 0, 4, 1, 0, 0]),
        ("bodies", &[5, 0, 0, 6, 1, 2, 3, 4, 5, 6, 6, 1, 255, 9, 7, 2, 3, 0]),
        ("copies", &[9, 0, 0, 0, 1, 3, 1, 0, 2, 3, 2, 1, 8, 0, 0, 0]),
    ];
    acts.iter().for_each(|(name, acts)| write("whole_pack", name, acts));
}

fn write_words() {
    let config = Config::new(StoreId([1; 16]), treering::env::Time(5), Some(Shared::Group));
    write("config", "shared", &config.encode());
    write("config", "plain", &Config { shared: None, ..config.clone() }.encode());
    write("config", "newer", br#"{"format": 9}"#);
    write("config", "feature", &Config { features: vec!["keys".into()], ..config }.encode());
    for (name, text) in [
        ("run", "a/b c"),
        ("address", "r@best:loss:max"),
        ("step", "gpt@100"),
        ("rule", "keep-best loss:3"),
        ("thin", "thin optimizer:2"),
        ("duration", "2h"),
        ("path", "sub/../x"),
        ("odd", "w\u{1b}[2J\u{202e}\u{200b}"),
    ] {
        write("names", name, text.as_bytes());
    }
    let metas = |n: u64| TensorMeta { name: format!("t{n}"), dtype: DType::new("F32"), shape: vec![n], bytes: 4 * n };
    let header = safetensors::write_header(&[metas(2), metas(0), metas(5)], &[("format".into(), "pt".into())]);
    write("safetensors", "header", &[&28u64.to_le_bytes(), &header[8..]].concat());
    write("safetensors", "index", &safetensors::write_index(&[("a.safetensors".into(), &[metas(2)])]));
    write(
        "state",
        "tree",
        br#"{"epoch":3,"lr":[1e-4,0.1,-0.0,1e400],"name":"\u00e9","deep":[[[[{}]]]],"n":18446744073709551615}"#,
    );
    write("state", "deep", "[".repeat(200).as_bytes());
}
