use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};

use super::*;

fn meta(name: &str, dtype: &str, shape: &[u64], bytes: u64) -> TensorMeta {
    TensorMeta { name: name.into(), dtype: DType::new(dtype), shape: shape.to_vec(), bytes }
}

fn names(header: &Header) -> Vec<&str> {
    header.tensors.iter().map(|entry| entry.meta.name.as_str()).collect()
}

#[track_caller]
fn refuses(header: &str, data_len: u64, why: &str) {
    refuses_bytes(header.as_bytes(), data_len, why);
}

#[track_caller]
fn refuses_bytes(header: &[u8], data_len: u64, why: &str) {
    let message = parse("m.safetensors", header, data_len).expect_err(why).to_string();
    assert!(message.starts_with("m.safetensors: "), "{message}");
    assert!(message.contains(why), "{message} does not say {why}");
    assert!(message.len() < 400 && !message.contains(char::is_control), "{message}");
}

/// A header with one tensor, which lies at 0..4 of 4 bytes.
#[track_caller]
fn refuses_entry(entry: &str, why: &str) {
    refuses(&format!(r#"{{"t":{entry}}}"#), 4, why);
}

#[test]
fn a_header_is_read_in_the_order_of_the_bytes() {
    let json = r#" {"b":{"data_offsets":[4,6],"shape":[2],"dtype":"U8"}, "__metadata__":{"z":"1","a":""},
        "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]} }  "#;
    let header = parse("m", json.as_bytes(), 6).unwrap();
    assert_eq!(header.data_start, 8 + json.len() as u64);
    assert_eq!(header.metadata, [("z".into(), "1".into()), ("a".into(), String::new())]);
    let a = Entry { meta: meta("a", "F32", &[], 4), begin: 0, end: 4 };
    let b = Entry { meta: meta("b", "U8", &[2], 2), begin: 4, end: 6 };
    assert_eq!(header.tensors, [a, b]);
}

#[test]
fn an_empty_header_is_a_header() {
    assert_eq!(parse("m", b"{}", 0).unwrap(), Header { data_start: 10, ..Header::default() });
}

#[test]
fn tensors_without_bytes_keep_the_order_of_the_header() {
    let json = r#"{"full":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
        "z":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}, "end":{"dtype":"F32","shape":[3,0],"data_offsets":[1,1]},
        "a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
    assert_eq!(names(&parse("m", json.as_bytes(), 1).unwrap()), ["z", "a", "full", "end"]);
}

#[test]
fn types_that_are_not_known_have_the_bytes_of_their_offsets() {
    let json = r#"{"t":{"dtype":"F3_X","shape":[7],"data_offsets":[0,5]}}"#;
    assert_eq!(parse("m", json.as_bytes(), 5).unwrap().tensors[0].meta, meta("t", "F3_X", &[7], 5));
}

#[test]
fn types_below_a_byte_are_counted_in_bits() {
    for (dtype, shape, bytes) in [("F4", 6, 3), ("F6_E2M3", 4, 3), ("F6_E3M2", 8, 6)] {
        let json = format!(r#"{{"t":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[0,{bytes}]}}}}"#);
        parse("m", json.as_bytes(), bytes).unwrap();
        refuses(&json.replace(&format!("[{shape}]"), &format!("[{}]", shape + 1)), bytes, "do not fill whole bytes");
        refuses(&json.replace(&format!("[{shape}]"), &format!("[{}]", shape * 2)), bytes, "its shape ask for");
    }
}

#[test]
fn the_length_of_a_header_is_checked_before_it_is_read() {
    let len = |n: u64, file| header_len("m", n.to_le_bytes(), file).map_err(|error| error.to_string());
    assert_eq!(len(0, 8), Ok(0));
    assert_eq!(len(92, 100), Ok(92));
    assert_eq!(len(HEADER_BYTES_MAX, 1 << 40), Ok(HEADER_BYTES_MAX));
    assert!(len(0, 7).unwrap_err().contains("only 7 bytes"));
    assert!(len(93, 100).unwrap_err().contains("truncated"));
    assert!(len(HEADER_BYTES_MAX + 1, u64::MAX).unwrap_err().contains("over the limit"));
    assert!(len(u64::MAX, u64::MAX).unwrap_err().contains("over the limit"));
}

#[test]
fn what_is_not_an_object_is_refused() {
    for json in ["", " ", "[]", "null", "7", "\"t\"", "{", "{}{}", "{}x", "{\"t\"}", "{,}", "{}\0\0"] {
        refuses(json, 0, "bad header");
    }
    refuses_bytes(b"{\"\xff\":1}", 0, "bad header");
    refuses_bytes(b"\xef\xbb\xbf{}", 0, "bad header");
}

#[test]
fn every_truncation_is_refused() {
    let json = r#"{"__metadata__":{"k":"v"},"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    parse("m", json.as_bytes(), 4).unwrap();
    for end in 0..json.len() {
        refuses(&json[..end], 4, "bad header");
    }
}

#[test]
fn names_are_unique_and_bounded() {
    let tensor = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let named = |name: &str| format!(r#"{{"{name}":{tensor}}}"#);
    let long = "n".repeat(names::TENSOR_BYTES_MAX);
    assert_eq!(names(&parse("m", named(&long).as_bytes(), 0).unwrap()), [&long]);
    refuses(&named(&(long + "n")), 0, "longer than 16384 bytes");
    refuses(&named(r"a\u0000b"), 0, r"\u{0}");
    refuses(&named(r"\u001b[2J"), 0, r"\u{1b}");
    refuses(&named("a\u{9b}b"), 0, r"\u{9b}");
    refuses(&format!(r#"{{"t":{tensor},"u":{tensor},"t":{tensor}}}"#), 0, "\"t\": twice");
    refuses(&format!(r#"{{"t":{tensor},"\u0074":{tensor}}}"#), 0, "\"t\": twice");
}

#[test]
fn entries_have_their_three_keys_once_and_no_other() {
    refuses_entry(r#"{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}"#, "duplicate field `dtype`");
    refuses_entry(r#"{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}"#, "duplicate field `shape`");
    refuses_entry(
        r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4],"data_offsets":[0,4]}"#,
        "duplicate field `data_offsets`",
    );
    refuses_entry(r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4],"scale":1}"#, "unknown field `scale`");
    refuses_entry(r#"{"shape":[4],"data_offsets":[0,4]}"#, "missing field `dtype`");
    refuses_entry(r#"{"dtype":"U8","data_offsets":[0,4]}"#, "missing field `shape`");
    refuses_entry(r#"{"dtype":"U8","shape":[4]}"#, "missing field `data_offsets`");
    for entry in ["[]", "null", "1", r#"["U8",[4],[0,4]]"#] {
        refuses_entry(entry, "bad header");
    }
    for (wrong, right) in [(r#""""#, r#""U8""#), (r#""U\n8""#, r#""U8""#), ("8", r#""U8""#), ("[-4]", "[4]")] {
        refuses_entry(&r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#.replace(right, wrong), "bad header");
    }
    for wrong in ["[4.0]", "[18446744073709551616]", "4", "[[4]]", "[null]"] {
        refuses_entry(&r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#.replace("[4]", wrong), "bad header");
    }
    for wrong in ["[0]", "[]", "[0,4,4]", "4", "[0,-4]", "[0,4.0]", r#"["0","4"]"#] {
        refuses_entry(&r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#.replace("[0,4]", wrong), "bad header");
    }
    refuses_entry(&format!(r#"{{"dtype":"{}"}}"#, "X".repeat(DTYPE_BYTES_MAX + 1)), "is not the name of a type");
}

#[test]
fn a_rank_is_bounded() {
    let with_rank = |rank| {
        let shape = vec!["1"; rank].join(",");
        format!(r#"{{"t":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,1]}}}}"#)
    };
    assert_eq!(parse("m", with_rank(RANK_MAX).as_bytes(), 1).unwrap().tensors[0].meta.shape.len(), RANK_MAX);
    refuses(&with_rank(RANK_MAX + 1), 1, "more than 4096 dimensions");
}

#[test]
fn bytes_are_those_of_type_and_shape() {
    refuses_entry(r#"{"dtype":"U8","shape":[3],"data_offsets":[0,4]}"#, "4 bytes, where U8 and its shape ask for 3");
    refuses_entry(r#"{"dtype":"F64","shape":[],"data_offsets":[0,4]}"#, "ask for 8");
    let huge = u64::MAX / 2;
    refuses_entry(&format!(r#"{{"dtype":"U8","shape":[{huge},3],"data_offsets":[0,4]}}"#), "2^64 elements");
    refuses_entry(&format!(r#"{{"dtype":"X","shape":[{huge},3],"data_offsets":[0,4]}}"#), "2^64 elements");
    refuses_entry(&format!(r#"{{"dtype":"U8","shape":[{huge}],"data_offsets":[0,4]}}"#), "2^64 bits");
}

#[test]
fn the_data_is_covered_exactly() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        let tensor = |[begin, end]: [u64; 2]| {
            format!(r#"{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#, end.saturating_sub(begin))
        };
        format!(r#"{{"a":{},"b":{}}}"#, tensor(a), tensor(b))
    };
    parse("m", two([0, 4], [4, 8]).as_bytes(), 8).unwrap();
    parse("m", two([4, 8], [0, 4]).as_bytes(), 8).unwrap();
    refuses(&two([0, 4], [4, 8]), 7, "\"b\": truncated");
    refuses(&two([0, 4], [4, 8]), 9, "1 bytes after the last tensor");
    refuses(&two([0, 4], [3, 8]), 8, "\"b\": overlaps");
    refuses(&two([0, 4], [0, 4]), 4, "\"b\": overlaps");
    refuses(&two([0, 8], [2, 4]), 8, "\"b\": overlaps");
    refuses(&two([0, 3], [4, 8]), 8, "\"b\": a hole of 1 bytes");
    refuses(&two([1, 4], [4, 8]), 8, "\"a\": a hole of 1 bytes");
    refuses(&two([0, 4], [8, 4]), 8, "\"b\": begins at 8, after its end at 4");
    refuses(&two([0, 4], [4, u64::MAX]), 8, "\"b\": truncated");
    refuses("{}", 1, "1 bytes after");
}

#[test]
fn metadata_is_strings() {
    let with = |metadata: &str| format!(r#"{{"__metadata__":{metadata}}}"#);
    assert_eq!(parse("m", with("{}").as_bytes(), 0).unwrap().metadata, []);
    for wrong in ["null", "[]", r#""x""#, r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":{}}"#] {
        refuses(&with(wrong), 0, "bad header");
    }
    let many = |count: usize| {
        with(&format!("{{{}}}", (0..count).map(|i| format!(r#""{i}":"""#)).collect::<Vec<_>>().join(",")))
    };
    assert_eq!(parse("m", many(METADATA_KEYS_MAX).as_bytes(), 0).unwrap().metadata.len(), METADATA_KEYS_MAX);
    refuses(&many(METADATA_KEYS_MAX + 1), 0, "more than 65536 keys");
    refuses(&with(r#"{"a":"1","b":"2","a":"1"}"#), 0, "the key \"a\" twice");
    refuses(r#"{"__metadata__":{},"__metadata__":{}}"#, 0, "two objects of metadata");
}

#[test]
fn no_depth_exhausts_the_stack() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deep = open.repeat(1 << 20) + "1" + &close.repeat(1 << 20);
        refuses(&deep, 0, "bad header");
        refuses(&format!(r#"{{"t":{deep}}}"#), 0, "bad header");
        refuses(&format!(r#"{{"t":{{"shape":{deep}}}}}"#), 0, "bad header");
        refuses(&format!(r#"{{"__metadata__":{{"a":{deep}}}}}"#), 0, "bad header");
        let _ = Index::parse("i", format!(r#"{{"metadata":{deep},"weight_map":{{}}}}"#).as_bytes());
    }
}

#[test]
fn a_message_is_short_and_one_line_whatever_the_header() {
    let long = "\\u001b\\n".repeat(1 << 16);
    refuses(&format!(r#"{{"{long}":1}}"#), 0, "bad header");
    refuses(&format!(r#"{{"t":"{long}"}}"#), 0, "bad header");
    refuses(&format!(r#"{{"t":{{"{long}":1}}}}"#), 0, "bad header");
    refuses(&format!(r#"{{"t":{{"dtype":"{long}"}}}}"#), 0, "bad header");
}

#[test]
fn a_written_header_is_aligned() {
    for len in 0..20 {
        let header = write_header(&[meta(&"t".repeat(len), "U8", &[3], 3)], &[]);
        assert!(header.len().is_multiple_of(8));
        assert_eq!(u64::from_le_bytes(header[..8].try_into().unwrap()), header.len() as u64 - 8);
    }
}

#[test]
#[ignore = "a measurement: a million tensors in about a second when optimised"]
fn a_million_tensors() {
    let tensors: Vec<_> = (0..1_000_000).map(|i| meta(&format!("model.layers.{i}.w"), "F32", &[2, 3], 24)).collect();
    let file = write_header(&tensors, &[]);
    let start = std::time::Instant::now();
    assert_eq!(parse("m", &file[8..], 24_000_000).unwrap().tensors.len(), tensors.len());
    println!("{} bytes of header: {:?}", file.len(), start.elapsed());
}

#[test]
fn shards_are_filled_in_order() {
    let sizes = |sizes: &[u64]| sizes.iter().map(|&n| meta("t", "U8", &[n], n)).collect::<Vec<_>>();
    assert!(plan_shards(&[], 10).is_empty());
    assert_eq!(plan_shards(&sizes(&[4, 6, 1, 0, 11, 1]), 10), [0..2, 2..4, 4..5, 5..6]);
    assert_eq!(plan_shards(&sizes(&[11]), 10).first(), Some(&(0..1)));
    assert_eq!(plan_shards(&sizes(&[0, 0, 1]), 0), [0..2, 2..3]);
    assert_eq!(plan_shards(&sizes(&[u64::MAX, 1]), u64::MAX), [0..1, 1..2]);
}

#[test]
fn shards_have_the_customary_names() {
    assert_eq!(shard_name("model", 0, 3), "model-00001-of-00003.safetensors");
    assert_eq!(shard_name("model", 99_999, 100_000), "model-100000-of-100000.safetensors");
}

#[test]
fn an_index_is_laid_out_as_is_customary() {
    let (a, b) = ([meta("b", "U8", &[2], 2)], [meta("a\"", "F32", &[], 4)]);
    let index = write_index(&[("1.safetensors".into(), &a[..]), ("2.safetensors".into(), &b[..])]);
    let expected = r#"{
  "metadata": {
    "total_size": 6
  },
  "weight_map": {
    "a\"": "2.safetensors",
    "b": "1.safetensors"
  }
}
"#;
    assert_eq!(String::from_utf8(index.clone()).unwrap(), expected);
    let read = Index::parse("i", &index).unwrap();
    assert_eq!(read.weight_map["a\""], "2.safetensors");
    assert_eq!(read.weight_map.len(), 2);
}

#[test]
fn an_index_is_read_strictly_where_it_matters() {
    let good = r#"{"metadata":{"total_size":1e10,"x":[]},"weight_map":{"t":"m.safetensors"},"y":null}"#;
    assert_eq!(Index::parse("i", good.as_bytes()).unwrap().weight_map["t"], "m.safetensors");
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"weight_map":[]}"#,
        r#"{"weight_map":{"t":1}}"#,
        r#"{"weight_map":{"t":"a","t":"b"}}"#,
        r#"{"weight_map":{},"weight_map":{}}"#,
        r#"{"weight_map":{"t":"../m"}}"#,
        r#"{"weight_map":{"t":"/m"}}"#,
        r#"{"weight_map":{"t\u0000":"m"}}"#,
    ] {
        assert!(Index::parse("i", bad.as_bytes()).is_err(), "{bad}");
    }
}

const DTYPES: &[Dtype] = &[
    Dtype::BOOL,
    Dtype::F4,
    Dtype::F6_E2M3,
    Dtype::F6_E3M2,
    Dtype::U8,
    Dtype::I8,
    Dtype::F8_E5M2,
    Dtype::F8_E4M3,
    Dtype::F8_E8M0,
    Dtype::F8_E4M3FNUZ,
    Dtype::F8_E5M2FNUZ,
    Dtype::I16,
    Dtype::U16,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I32,
    Dtype::U32,
    Dtype::F32,
    Dtype::C64,
    Dtype::F64,
    Dtype::I64,
    Dtype::U64,
];

/// Tensors of types that the `safetensors` crate knows, under different names, with whole bytes.
fn any_tensors() -> impl Strategy<Value = Vec<(TensorMeta, Dtype)>> {
    let tensor = (proptest::sample::select(DTYPES), vec(0u64..5, 0..4), "[a-zé\"\\\\.{}/ ]{0,6}");
    vec(tensor, 0..8).prop_map(|tensors| {
        let numbered = tensors.into_iter().enumerate();
        numbered
            .filter_map(|(i, (theirs, shape, name))| {
                let dtype = DType::new(theirs.to_string());
                let bits = u64::from(dtype.bits()?) * shape.iter().product::<u64>();
                let bytes = bits.is_multiple_of(8).then_some(bits / 8)?;
                Some((TensorMeta { name: format!("{name}{i}"), dtype, shape, bytes }, theirs))
            })
            .collect()
    })
}

fn any_metadata() -> impl Strategy<Value = HashMap<String, String>> {
    proptest::collection::hash_map(any::<String>(), any::<String>(), 0..4)
}

proptest! {
    #[test]
    fn what_is_written_is_read_by_us_and_by_the_crate(tensors in any_tensors(), metadata in any_metadata()) {
        let metas: Vec<_> = tensors.iter().map(|(meta, _)| meta.clone()).collect();
        let pairs: Vec<_> = metadata.clone().into_iter().collect();
        let mut file = write_header(&metas, &pairs);
        let data_len: u64 = metas.iter().map(|meta| meta.bytes).sum();

        let ours = parse("m", &file[8..], data_len).unwrap();
        prop_assert_eq!(ours.data_start, file.len() as u64);
        prop_assert_eq!(&ours.metadata, &pairs);
        let mut in_order = metas.clone();
        in_order.sort_by_key(|meta| ours.tensors.iter().position(|entry| entry.meta == *meta));
        prop_assert_eq!(ours.tensors.iter().map(|entry| entry.meta.clone()).collect::<Vec<_>>(), in_order);

        file.resize(file.len() + data_len as usize, 0);
        let (_, theirs) = safetensors::SafeTensors::read_metadata(&file).unwrap();
        prop_assert_eq!(theirs.metadata().clone().unwrap_or_default(), metadata);
        let mut at = 0;
        for (meta, dtype) in &tensors {
            let TensorInfo { dtype: read, shape, data_offsets } = theirs.info(&meta.name).unwrap();
            prop_assert_eq!((read, data_offsets), (dtype, &(at, at + meta.bytes as usize)));
            prop_assert_eq!(shape.iter().map(|&d| d as u64).collect::<Vec<_>>(), meta.shape.clone());
            at += meta.bytes as usize;
        }
        prop_assert_eq!(theirs.tensors().len(), tensors.len());
    }

    #[test]
    fn what_the_crate_writes_is_read_as_it_was_meant(tensors in any_tensors(), metadata in any_metadata()) {
        let zeros = vec![0; tensors.iter().map(|(meta, _)| meta.bytes as usize).max().unwrap_or(0)];
        let views = tensors.iter().map(|(meta, dtype)| {
            let shape = meta.shape.iter().map(|&d| d as usize).collect();
            (meta.name.clone(), TensorView::new(*dtype, shape, &zeros[..meta.bytes as usize]).unwrap())
        });
        // With neither tensors nor metadata, an empty map there makes the crate write what is no JSON.
        let given = (!metadata.is_empty()).then(|| metadata.clone());
        let file = safetensors::serialize(views, given).unwrap();
        let first8 = file[..8].try_into().unwrap();
        let start = 8 + header_len("m", first8, file.len() as u64).unwrap() as usize;
        let header = parse("m", &file[8..start], (file.len() - start) as u64).unwrap();
        prop_assert_eq!(header.data_start, start as u64);
        prop_assert_eq!(header.metadata.into_iter().collect::<HashMap<_, _>>(), metadata);
        let by_name = |mut metas: Vec<TensorMeta>| { metas.sort_by(|a, b| a.name.cmp(&b.name)); metas };
        prop_assert_eq!(
            by_name(header.tensors.into_iter().map(|entry| entry.meta).collect()),
            by_name(tensors.into_iter().map(|(meta, _)| meta).collect())
        );
    }

    #[test]
    fn no_bytes_panic(header in vec(any::<u8>(), 0..200), first8: [u8; 8], len: u64) {
        let _ = header_len("m", first8, len);
        let _ = parse("m", &header, len);
        let _ = Index::parse("i", &header);
    }

    /// What we accept after damage, the crate accepts too, and it lies within the data.
    #[test]
    fn a_damaged_header_is_refused_or_still_sound(
        tensors in any_tensors(), hits in vec((any::<prop::sample::Index>(), "[0-9\\[\\]{}:,\" ]"), 1..4),
    ) {
        let metas: Vec<_> = tensors.into_iter().map(|(meta, _)| meta).collect();
        let mut json = write_header(&metas, &[]).split_off(8);
        let data_len: u64 = metas.iter().map(|meta| meta.bytes).sum();
        for (at, byte) in hits {
            let at = at.index(json.len());
            json[at] = byte.as_bytes()[0];
        }
        if let Ok(header) = parse("m", &json, data_len) {
            let mut at = 0;
            for Entry { meta, begin, end } in &header.tensors {
                prop_assert_eq!((*begin, end - begin), (at, meta.bytes));
                at = *end;
            }
            prop_assert_eq!(at, data_len);
            if header.tensors.iter().all(|entry| entry.meta.dtype.bits().is_some()) {
                let theirs: Metadata = serde_json::from_slice(&json).unwrap();
                prop_assert_eq!(theirs.data_len() as u64, data_len);
            }
        }
    }
}
