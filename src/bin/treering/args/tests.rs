use std::collections::BTreeSet;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use proptest::prelude::*;

use super::filter::Op;
use super::values::{Input, KeepBest, Score, Thin, duration, size};
use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches_from(line.split(' '))?;
    Cli::from_arg_matches(&matches)
}

#[test]
fn the_definitions_are_consistent() {
    command().debug_assert();
}

#[test]
fn each_command_is_in_one_group_of_the_front_page() {
    let listed: Vec<_> = help::GROUPS.iter().flat_map(|(_, names)| names.iter().map(ToString::to_string)).collect();
    let defined: BTreeSet<_> =
        Cli::command().get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_string()).collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), defined);
    assert_eq!(listed.len(), defined.len(), "none twice");
}

#[test]
fn each_command_says_what_it_does() {
    for command in Cli::command().get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(!about.is_empty() && about.len() < 70 && !about.ends_with('.'), "{}: {about:?}", command.get_name());
    }
}

#[test]
fn examples_fit_a_narrow_terminal() {
    for command in Cli::command().get_subcommands() {
        for line in command.get_after_help().map(ToString::to_string).unwrap_or_default().lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}

/// An example that does not parse is worse than none.
#[test]
fn examples_are_true() {
    for command in Cli::command().get_subcommands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines().filter_map(|line| line.strip_prefix("  treering ")) {
            // What follows two spaces explains; what follows a pipe or a > is for the shell; quotes hold one word.
            let typed = line.split("  ").next().and_then(|line| line.split(" | ").next()).unwrap();
            let typed = typed.split(" > ").next().unwrap();
            let words = typed.split('"').enumerate().flat_map(|(at, part)| match at % 2 {
                0 => part.split_whitespace().collect(),
                _ => vec![part],
            });
            let words: Vec<&str> = ["treering"].into_iter().chain(words).collect();
            assert!(command_of(&words).is_ok(), "{line}");
        }
    }
}

fn command_of(words: &[&str]) -> Result<clap::ArgMatches, clap::Error> {
    command().try_get_matches_from(words)
}

#[test]
fn a_save_with_everything() {
    let cli = parse(
        "treering save model=m.safetensors o.safetensors --run a/b --step 7 --metric loss=-0.5 --metric acc=nan \
         --tag t --note n --state {\"a\":1} --file x --parent a/b@6 --on-conflict skip --init --gc --mmap --dry-run --json",
    )
    .unwrap();
    let Command::Save(save) = cli.command else { panic!("a save") };
    assert!(cli.global.json);
    assert_eq!(save.inputs[0], Input { component: Some("model".into()), path: "m.safetensors".into() });
    assert_eq!(save.inputs[1], Input { component: None, path: "o.safetensors".into() });
    assert_eq!(save.metrics[0], Score { name: "loss".into(), value: -0.5 });
    assert!(save.metrics[1].value.is_nan());
    assert_eq!(save.on_conflict, OnConflict::Skip);
    assert_eq!(save.state.unwrap().load().unwrap(), serde_json::json!({"a": 1}));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for line in [
        "treering save --run a --step 1",
        "treering save f --run a --step -1",
        "treering save f --run a --step 1 --metric loss=abc",
        "treering save f --run a --step 1 --state {",
        "treering save f --run a --step 1 --backfill --parent a@0",
        "treering forget",
        "treering forget a@1 --run b",
        "treering export dir",
        "treering export dir --all --run a",
        "treering annotate a@1",
        "treering annotate --from f",
        "treering best --run a --metric m -k 0",
        "treering verify --stored --deep",
        "treering log --csv --json",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn what_can_be_meant_is_taken() {
    for line in [
        "treering --store s init --shared group",
        "treering annotate --run a --from f",
        "treering annotate a@1 -m x=inf",
        "treering forget --run a --older-than 30d",
        "treering forget a@1 a@2",
        "treering export --all d",
        "treering gc --max-time 1h30m -n",
        "treering policy a --keep-last 3 --keep-best val:loss:2 --thin optimizer:2+best --keep-tagged --clear",
        "treering restore a@best:loss:min -o out --component model --max-shard-size 2GiB -f",
        "treering log --where a<1 --sort time -r -n 5 -a",
        "treering watch a --from 0 --interval 200ms",
        "treering lease a@1 --for 2h",
        "treering repair -n",
        "treering rebuild --accept-shorter-log",
        "treering upgrade",
        "treering completions zsh",
        "treering man d",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn a_path_with_an_equals_sign_needs_its_folder() {
    let input = |text: &str| match parse(&format!("treering save {text} --run r --step 1")).unwrap().command {
        Command::Save(save) => save.inputs[0].clone(),
        _ => panic!("a save"),
    };
    assert_eq!(input("ema=x").component.as_deref(), Some("ema"));
    assert_eq!(input("./a=b").path, PathBuf::from("./a=b"));
    assert_eq!(input("=b").path, PathBuf::from("=b"));
    assert_eq!(input("a=").path, PathBuf::from("a="));
}

#[test]
fn scores() {
    let score = |text: &str| text.parse::<Score>();
    assert_eq!(score("a=b=1").unwrap_err(), "`b=1` is not a number (nan and inf are)");
    assert_eq!(score("x= 1e-3 ").unwrap().value, 1e-3);
    assert_eq!(score("x=-inf").unwrap().value, f64::NEG_INFINITY);
    assert!(score("x=NaN").unwrap().value.is_nan());
    for bad in ["x", "=1", " =1", "x=", "x=1,5"] {
        assert!(!score(bad).unwrap_err().contains('\n'), "{bad}");
    }
}

#[test]
fn rules() {
    assert_eq!("val:loss:3".parse(), Ok(KeepBest { metric: "val:loss".into(), count: 3 }));
    assert_eq!("optimizer:2".parse(), Ok(Thin { component: "optimizer".into(), newest: 2, best: false }));
    assert_eq!("optimizer:2+best".parse(), Ok(Thin { component: "optimizer".into(), newest: 2, best: true }));
    for bad in ["loss", "loss:", ":3", "loss:-1", "loss:x"] {
        assert!(bad.parse::<KeepBest>().is_err(), "{bad}");
        assert!(bad.parse::<Thin>().is_err(), "{bad}");
    }
}

#[test]
fn durations() {
    for (text, millis) in
        [("90s", 90_000), ("500ms", 500), ("1h30m", 5_400_000), ("7d", 604_800_000), ("2w", 1_209_600_000), ("0s", 0)]
    {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for bad in ["", "5", "h", "1y", "-1s", "1.5h", "1h30", "99999999999999999999d", "18446744073709551615w", "1é"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("5GB", 5_000_000_000),
        ("500MB", 500_000_000),
        ("2GiB", 2 << 30),
        ("1.5 kB", 1500),
        ("4096", 4096),
        ("1t", 1_000_000_000_000),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for bad in ["", "GB", "0", "-1", "5XB", "1.2.3MB", "99999999TB", "99999999.5TB", "5é"] {
        assert!(size(bad).is_err(), "{bad}");
    }
}

#[test]
fn filters() {
    let holds = |text: &str| {
        text.parse::<Filter>().unwrap().matches(|name| match name {
            "loss" => Some(2.0),
            "bad" => Some(f64::NAN),
            "eval loss" => Some(1.0),
            _ => None,
        })
    };
    for yes in ["loss<2.1", "loss <= 2", "loss>=2", "loss>1 and loss<3", "loss==2", "loss!=1", "eval loss=1", "bad=nan"]
    {
        assert!(holds(yes), "{yes}");
    }
    for no in ["loss<2", "loss>2", "loss!=2", "bad<1", "bad>=1", "bad!=nan", "other=1", "other!=1", "loss=2 AND loss=3"]
    {
        assert!(!holds(no), "{no}");
    }
    for bad in ["", "loss", "<1", "loss<", "loss<x", "loss!1", "loss<1 and", "loss<1 and and loss>0", "loss=<1"] {
        assert!(bad.parse::<Filter>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,12}") {
        let _ = (duration(&text), size(&text), text.parse::<Filter>(), text.parse::<Score>(), text.parse::<Thin>());
    }

    #[test]
    fn a_filter_reads_what_was_written(name in "[a-z_/@.:]{1,9}", op in 0..OPS.len(), value in any::<f64>()) {
        let (sign, op) = OPS[op];
        let filter: Filter = format!("{name} {sign} {value:?}").parse().unwrap();
        prop_assert_eq!(filter.all.len(), 1);
        prop_assert_eq!((filter.all[0].name.as_str(), filter.all[0].op), (name.as_str(), op));
        prop_assert!(Op::Equal.holds(filter.all[0].value, value));
    }
}

const OPS: [(&str, Op); 6] =
    [("<", Op::Less), ("<=", Op::AtMost), (">", Op::More), (">=", Op::AtLeast), ("=", Op::Equal), ("!=", Op::Unequal)];
