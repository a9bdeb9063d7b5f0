//! `treering bench`: a series is found, measured, compared and leaves nothing behind.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::helpers::{Place, floats};

fn bench(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_treering"));
    command.arg("bench").args(arguments.split_whitespace()).current_dir(folder);
    command.env("NO_COLOR", "1").env("TMPDIR", folder.join("tmp")).output().unwrap()
}

/// Temporary stores in this folder. Any store makes a folder for catalogs beside them, which is for all.
fn left(tmp: &Path) -> usize {
    let entries = std::fs::read_dir(tmp).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| name.starts_with("treering-bench-")).count()
}

#[track_caller]
fn measured(folder: &Path, arguments: &str) -> Value {
    let output = bench(folder, &format!("{arguments} --json"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(left(&folder.join("tmp")), 0, "it cleans up");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn fails(folder: &Path, arguments: &str, code: i32, says: &str) {
    let output = bench(folder, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.starts_with("error: ") && text.contains(says), "{text}");
    assert_eq!(left(&folder.join("tmp")), 0, "it cleans up");
}

/// A place with a folder for temporary files, and steps in a folder: a frozen part and one that is always new.
fn steps(names: &[&str]) -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("tmp")).unwrap();
    for (step, name) in (1..).zip(names) {
        let tensors = [floats("model.frozen", 30_000, 1), floats("model.head", 10_000, 100 + step)];
        let _ = place.file(name, &tensors);
    }
    place
}

fn names(measured: &Value) -> Vec<&str> {
    measured["saves"].as_array().unwrap().iter().map(|save| save["name"].as_str().unwrap()).collect()
}

#[test]
fn files_are_measured_in_the_order_of_their_numbers() {
    let place = steps(&["run/step-9.safetensors", "run/step-100.safetensors", "run/step-20.safetensors"]);
    let found = measured(place.folder.path(), "run");
    assert_eq!(names(&found), ["step-9.safetensors", "step-20.safetensors", "step-100.safetensors"]);
    let [first, second] = [&found["saves"][0], &found["saves"][1]];
    assert!(first["raw_bytes"].as_u64().unwrap() > 160_000);
    assert!(second["new_bytes"].as_u64().unwrap() < first["new_bytes"].as_u64().unwrap() / 2, "{found}");
    for key in ["seconds", "copy_seconds", "zstd_bytes", "zstd_seconds"] {
        assert!(second[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let restores: Vec<&Value> = found["restores"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(restores, ["step-100.safetensors", "step-20.safetensors"]);
    let limited = measured(place.folder.path(), "run --limit 2 --quick --encoding small");
    assert_eq!(names(&limited), ["step-9.safetensors", "step-20.safetensors"]);
    assert!(limited["saves"][0]["zstd_bytes"].is_null());
}

#[test]
fn checkpoint_folders_are_measured_and_policies_applied() {
    let folders: Vec<String> = (1..=9).map(|n| format!("run/checkpoint-{n}/model.safetensors")).collect();
    let place = steps(&folders.iter().map(String::as_str).collect::<Vec<_>>());
    std::fs::write(place.path("run/trainer.log"), "not a checkpoint").unwrap();
    std::fs::write(place.path("run/checkpoint-9/config.json"), "{}").unwrap();
    let found = measured(place.folder.path(), "run --quick --store-dir tmp");
    assert_eq!(names(&found).len(), 9);
    let policies = found["policies"].as_array().unwrap();
    let kept: Vec<(String, u64)> =
        policies.iter().map(|p| (p["rules"].to_string(), p["checkpoints"].as_u64().unwrap())).collect();
    let expected = [("[]", 9), (r#"["keep-last 3","keep-every 4"]"#, 4), (r#"["keep-last 3"]"#, 3)];
    assert_eq!(kept, expected.map(|(rules, count)| (rules.to_string(), count)));
    let stored: Vec<u64> = policies.iter().map(|p| p["stored_bytes"].as_u64().unwrap()).collect();
    assert!(stored[0] > stored[1] && stored[1] > stored[2], "{stored:?}");
}

#[test]
fn people_get_tables() {
    let place = steps(&["a-1.safetensors", "a-2.safetensors", "a-3.safetensors"]);
    let output = bench(place.folder.path(), "a-1.safetensors a-2.safetensors a-3.safetensors");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["a-2.safetensors", "all but the first", "restored at", "everything", "keep-last 3"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(output.stderr.is_empty(), "no progress where no terminal is");
}

/// The signal comes once the temporary store is there, long before forty saves are synced.
#[test]
fn ctrl_c_leaves_nothing_behind() {
    let files: Vec<String> = (0..40).map(|n| format!("run/{n}.safetensors")).collect();
    let place = steps(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let tmp = place.path("tmp");
    let mut command = Command::new(env!("CARGO_BIN_EXE_treering"));
    command.args(["bench", "run"]).current_dir(place.folder.path()).env("NO_COLOR", "1").env("TMPDIR", &tmp);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while left(&tmp) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it began");
        std::thread::yield_now();
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && text.starts_with("error: interrupted"), "{:?}: {text}", output.status);
    assert_eq!(left(&tmp), 0, "it cleans up");
}

#[test]
fn what_cannot_be_measured_says_why() {
    let place = steps(&["run/a-1.safetensors", "shards/model-00001-of-00001.safetensors"]);
    let here = place.folder.path();
    std::fs::create_dir(place.path("empty")).unwrap();
    std::fs::write(place.path("shards/model.safetensors.index.json"), "{}").unwrap();
    std::fs::write(place.path("run/b-2.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    fails(here, "empty", 2, "no .safetensors file in this folder");
    fails(here, "shards", 2, "one checkpoint");
    fails(here, "nothing", 3, "nothing");
    fails(here, "run", 2, "b-2.safetensors");
    fails(here, "run/a-1.safetensors --store-dir nowhere", 3, "nowhere");
}
