//! The command line, as a person and as a program meet it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::helpers::{Place, floats};

fn treering(folder: &Path, line: &str) -> Output {
    let words = line.split_whitespace();
    let mut command = Command::new(env!("CARGO_BIN_EXE_treering"));
    command.args(words).current_dir(folder).env_remove("TREERING_STORE").env("NO_COLOR", "1").output().unwrap()
}

#[track_caller]
fn succeeds(folder: &Path, line: &str) -> String {
    let output = treering(folder, line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(folder: &Path, line: &str) -> Value {
    let value: Value = serde_json::from_str(&succeeds(folder, &format!("{line} --json"))).unwrap();
    assert_eq!(value["format"], 1, "{line}");
    value
}

/// One clear line, with its exit code.
#[track_caller]
fn fails(folder: &Path, line: &str, code: i32, says: &str) {
    let output = treering(folder, line);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line}: {text}");
    let error = text.lines().next().unwrap_or_default();
    assert!(error.starts_with("error: ") && error.contains(says), "{line}: {text}");
}

/// Three checkpoints of a training: a frozen part, and one that moves.
fn three_steps() -> Place {
    let place = Place::new();
    for step in [100, 200, 300] {
        let tensors = [
            floats("model.frozen", 90_000, 1),
            floats("model.head", 40_000, step),
            floats("optimizer.exp_avg.head", 40_000, step + 1),
        ];
        let _ = place.file(&format!("step-{step}.safetensors"), &tensors);
    }
    place
}

#[test]
fn the_examples_of_the_readme_run() {
    let place = three_steps();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_treering")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut ran = 0;
    for block in readme.split("<!-- example: ").skip(1) {
        let (name, rest) = block.split_once(" -->").unwrap();
        let script = rest.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
        let script = format!("set -e\n{script}");
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).current_dir(place.folder.path()).env("PATH", &path).env_remove("TREERING_STORE");
        let output = bash.output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        ran += 1;
    }
    assert_eq!(ran, 3);
}

#[test]
fn facts_are_json_with_stable_keys() {
    let place = three_steps();
    let here = place.folder.path();
    let saved =
        json(here, "save step-100.safetensors --run r --step 100 --metric loss=nan --metric acc=0.5 --tag a --init");
    assert_eq!(saved["outcome"], "saved");
    assert_eq!(json(here, "save step-100.safetensors --run r --step 100 --metric acc=0.5")["outcome"], "identical");
    json(here, "save step-200.safetensors --run r --step 200 --metric loss=0.5 --note hello");
    let log = json(here, "log --run r");
    let first = &log["checkpoints"][0];
    for key in ["run", "step", "status", "created_at", "metrics", "tags", "raw_bytes", "new_bytes", "tensors"] {
        assert!(!first[key].is_null(), "{key}");
    }
    assert_eq!(
        (&first["metrics"]["loss"], &first["status"], &first["tags"][0]),
        (&"NaN".into(), &"kept".into(), &"a".into())
    );
    assert_eq!(log["totals"]["checkpoints"], 2);
    assert_eq!(json(here, "log --where loss<1")["checkpoints"].as_array().unwrap().len(), 1);
    assert_eq!(json(here, "best --run r --metric loss --mode min")["checkpoints"][0]["step"], 200);
    let du = json(here, "du");
    assert!(du["raw_bytes"].as_u64() > du["stored_bytes"].as_u64() && du["checkpoints"] == 2);
    let shown = json(here, "show r@latest --tensors");
    assert_eq!(shown["tensor_list"].as_array().unwrap().len(), 3);
    assert_eq!(shown["tensor_list"][0]["how"][0]["why"], "unchanged since r@100");
    let encodings = &json(here, "stats --encodings")["encodings"];
    assert_eq!(encodings["by_dtype"]["F32"]["raw_bytes"], 1_000_000, "the frozen part once, the others twice");
    assert_eq!(json(here, "verify --deep")["sound"], true);
    for line in [
        "runs",
        "stats",
        "doctor",
        "why r@a",
        "policy r",
        "gc --dry-run",
        "repair",
        "rebuild",
        "lease r@a --for 2h",
        "fork s r@a",
    ] {
        json(here, line);
    }
    assert_eq!(json(here, "watch r --from 0 --limit 1")["step"], 100);
    assert_eq!(json(here, "upgrade")["after"], 1);
}

#[test]
fn a_collection_has_patience_if_it_is_told_to() {
    let place = three_steps();
    let folder = place.folder.path();
    for step in [100, 200] {
        succeeds(folder, &format!("save step-{step}.safetensors --run r --step {step} --store store"));
    }
    succeeds(folder, "forget r@100 --store store");
    let facts = json(folder, "gc --grace 1h --store store");
    assert_eq!((&facts["packs_deleted"], &facts["packs_waiting"]), (&0.into(), &1.into()), "{facts}");
    assert!(facts["waiting_bytes"].as_u64().unwrap() > 100_000, "{facts}");
    let said = succeeds(folder, "gc --grace 1h --store store");
    assert!(said.contains("in 1 pack lie on for who still reads them"), "{said}");
    let facts = json(folder, "gc --store store");
    assert_eq!((&facts["packs_deleted"], &facts["packs_waiting"]), (&1.into(), &0.into()), "{facts}");
}

#[test]
fn errors_are_one_line_and_a_code() {
    let place = three_steps();
    let here = place.folder.path();
    fails(here, "log", 3, "no store at treering-store");
    succeeds(here, "save step-100.safetensors --run r --step 100 --init");
    fails(here, "save step-200.safetensors --run r --step 100", 5, "r@100 exists");
    fails(here, "save step-200.safetensors --run r --step 50", 2, "--backfill");
    fails(here, "save step-200.safetensors --run .. --step 5", 2, "run");
    fails(here, "save step-200.safetensors --run r --step 200 --metric loss=low", 2, "not a number");
    fails(here, "save step-200.safetensors --run r --step nan", 2, "a step is a whole number");
    fails(here, "save step-200.safetensors --run r --step -1", 2, "a step is a whole number");
    fails(here, "log --sort loss", 2, "--sort loss");
    fails(here, "save nothing.safetensors --run r --step 200", 3, "nothing.safetensors");
    fails(here, "restore r@7 -o x", 3, "no checkpoint r@7");
    fails(here, "restore q@7 -o x", 3, "no run q");
    fails(here, "restore r@100 -o step-200.safetensors", 5, "exists");
    fails(here, "best --run r --metric loss", 2, "loss");
    fails(here, "cat r@100 nothing", 3, "no tensor nothing");
    succeeds(here, "lease r@100 --for 2h");
    fails(here, "forget r@100", 1, "r@100 is leased until");
    succeeds(here, "forget r@100 --force");
    succeeds(here, "undo r@100");
    std::fs::write(here.join("bad.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    fails(here, "save bad.safetensors --run r --step 200", 2, "bad.safetensors");
    assert_eq!(json(here, "log")["checkpoints"].as_array().unwrap().len(), 1);
}

#[test]
fn what_goes_in_comes_out() {
    let place = three_steps();
    let here = place.folder.path();
    succeeds(
        here,
        "save step-100.safetensors --run r --step 100 --init --state {\"epoch\":3} --file step-200.safetensors",
    );
    assert_eq!(treering(here, "cat r@100 model.head").stdout.len(), 160_000);
    assert_eq!(
        treering(here, "cat r@100 step-200.safetensors").stdout,
        std::fs::read(here.join("step-200.safetensors")).unwrap()
    );
    assert_eq!(
        serde_json::from_str::<Value>(&succeeds(here, "state r@100")).unwrap(),
        serde_json::json!({ "epoch": 3 })
    );
    succeeds(here, "export --all plain");
    let exported = std::fs::read(here.join("plain/r/step-000000100/checkpoint.safetensors")).unwrap();
    assert!(exported == std::fs::read(here.join("step-100.safetensors")).unwrap());
    assert!(std::fs::read_to_string(here.join("plain/r/metrics.jsonl")).unwrap().contains("\"step\":100"));
    let csv = succeeds(here, "log --csv");
    assert_eq!(csv.lines().count(), 2);
    assert!(succeeds(here, "--help").find("save").unwrap() < succeeds(here, "--help").find("doctor").unwrap());
    assert!(succeeds(here, "completions bash").contains("treering"));
    succeeds(here, "man pages");
    let page = std::fs::read_to_string(here.join("pages/treering.1")).unwrap();
    let places = [".SH Commands", "treering\\-save(1)", "treering\\-verify(1)", ".SH History", "treering\\-fork(1)"];
    let found: Vec<_> = places.iter().map(|text| page.find(text)).collect();
    assert!(found.is_sorted() && found[0].is_some(), "{found:?}");
    assert!(std::fs::read_to_string(here.join("pages/treering-save.1")).unwrap().contains("EXTRA"));
}

#[test]
fn the_demo_proves_what_it_says() {
    let place = Place::new();
    let said = succeeds(place.folder.path(), "demo");
    for part in ["killed in the middle", "came back as it was", "sound", "plain copies"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
