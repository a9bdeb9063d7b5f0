use super::*;
use proptest::prelude::*;

fn meta(name: &str, dtype: &str, shape: &[u64]) -> TensorMeta {
    let dtype = DType::new(dtype);
    let bytes = TensorMeta::expected_bytes(&dtype, shape).unwrap();
    TensorMeta { name: name.into(), dtype, shape: shape.to_vec(), bytes }
}

#[track_caller]
fn refused(json: &str, data_bytes: u64, why: &str) {
    let error = parse(json.as_bytes(), data_bytes, "f").unwrap_err().to_string();
    assert!(error.contains(why), "{error:?} does not say {why:?}");
    assert_eq!(error.lines().count(), 1, "{error:?}");
}

#[test]
fn what_could_mean_two_things_is_refused() {
    let t = |begin: u64, end: u64| {
        format!(r#"{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#, end.saturating_sub(begin))
    };
    refused("", 0, "no JSON object");
    refused("[]", 0, "no JSON object");
    refused("{", 0, "its header");
    refused(r#"{"a":1}"#, 0, "its header");
    refused(&format!(r#"{{"a":{},"a":{}}}"#, t(0, 4), t(4, 8)), 8, "given twice");
    refused(r#"{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}"#, 4, "duplicate");
    refused(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"more":1}}"#, 4, "unknown field");
    refused(r#"{"a":{"dtype":"U8","shape":[4]}}"#, 4, "missing field");
    refused(r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[4,0]}}"#, 4, "ends before it begins");
    refused(&format!(r#"{{"a":{},"b":{}}}"#, t(0, 4), t(3, 8)), 8, "overlaps");
    refused(&format!(r#"{{"a":{},"b":{}}}"#, t(0, 4), t(5, 8)), 8, "belong to nothing");
    refused(&format!(r#"{{"a":{}}}"#, t(0, 4)), 3, "truncated");
    refused(&format!(r#"{{"a":{}}}"#, t(0, 4)), 5, "after its last tensor");
    refused(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}"#, 4, "ask for 12");
    refused(r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#, 2, "no possible size");
    refused(r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}"#, 4, "no possible size");
    refused(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "its header");
    refused(r#"{"a":{"dtype":"F\u0007","shape":[],"data_offsets":[0,4]}}"#, 4, "no name");
    refused(r#"{"a\u0000b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1, "control characters");
    refused(&format!(r#"{{"{}":{}}}"#, "x".repeat(20_000), t(0, 1)), 1, "too long");
    refused(r#"{"__metadata__":{"a":1}}"#, 0, "its header");
    refused(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0, "given twice");
    refused(&format!("{{\"a\":{}", "[".repeat(100_000)), 0, "its header");
}

#[test]
fn a_length_is_checked_before_it_is_believed() {
    assert!(header_len(u64::MAX.to_le_bytes(), 100, "f").is_err());
    assert!(header_len(93u64.to_le_bytes(), 100, "f").is_err());
    assert_eq!(header_len(92u64.to_le_bytes(), 100, "f").unwrap(), 92);
}

#[test]
fn unusual_tensors_are_fine() {
    let json = r#"{"scalar":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"none":{"dtype":"F32","shape":[0,7],"data_offsets":[8,8]},
        "deep":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2],"data_offsets":[8,10]},
        "sub":{"dtype":"F4","shape":[4],"data_offsets":[10,12]},"new":{"dtype":"Z9","shape":[5],"data_offsets":[12,15]}}"#;
    let header = parse(json.as_bytes(), 15, "f").unwrap();
    let names: Vec<&str> = header.tensors.iter().map(|t| t.meta.name.as_str()).collect();
    assert_eq!(names, ["scalar", "none", "deep", "sub", "new"]);
}

proptest! {
    #[test]
    fn any_bytes_are_a_header_or_an_error(bytes: Vec<u8>, data: u64) {
        let _ = parse(&bytes, data, "f");
        let _ = parse(&[b"{\"a\":", &bytes[..]].concat(), data, "f");
    }

    #[test]
    fn what_is_written_is_read_by_us_and_by_others(shapes in proptest::collection::vec(proptest::collection::vec(0u64..5, 0..4), 0..12)) {
        let types = ["F32", "BF16", "I64", "BOOL", "F8_E4M3"];
        let metas: Vec<TensorMeta> = shapes.iter().enumerate().map(|(i, s)| meta(&format!("t\"{i}"), types[i % 5], s)).collect();
        let metadata = [("format".to_string(), "pt".to_string())];
        let mut file = write_header(&metas, &metadata);
        let total: u64 = metas.iter().map(|m| m.bytes).sum();
        prop_assert_eq!(file.len() % 8, 0);
        let parsed = parse(&file[8..], total, "f").unwrap();
        prop_assert_eq!(parsed.tensors.len(), metas.len());
        prop_assert_eq!(&parsed.metadata[..], &metadata[..]);
        file.resize(file.len() + total as usize, 0);
        let theirs = safetensors::SafeTensors::deserialize(&file).unwrap();
        for m in &metas {
            let t = theirs.tensor(&m.name).unwrap();
            prop_assert_eq!(t.shape().iter().map(|&d| d as u64).collect::<Vec<_>>(), m.shape.clone());
            prop_assert_eq!(t.data().len() as u64, m.bytes);
        }
    }

    #[test]
    fn shards_keep_the_order_and_the_limit(sizes in proptest::collection::vec(0u64..50, 1..30), max in 1u64..100) {
        let metas: Vec<TensorMeta> = sizes.iter().map(|&n| meta("t", "U8", &[n])).collect();
        let shards = plan_shards(&metas, max);
        let joined: Vec<usize> = shards.iter().cloned().flatten().collect();
        prop_assert_eq!(joined, (0..metas.len()).collect::<Vec<_>>());
        for shard in shards {
            let bytes: u64 = sizes[shard.clone()].iter().sum();
            prop_assert!(shard.len() == 1 || bytes <= max);
        }
    }
}
