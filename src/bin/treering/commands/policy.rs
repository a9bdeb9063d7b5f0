//! `treering policy`

use std::process::ExitCode;

use serde_json::json;
use treering::format::policy::{self, Keep, Rule};
use treering::{Error, Result};

use crate::args::Policy;
use crate::context::Context;

pub(crate) fn run(args: &Policy, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    let known = match store.run(&args.run) {
        Ok(run) => run.run.policy,
        // A policy may come before the first save.
        Err(Error::RunUnknown { .. }) if changes(args) => policy::Policy::default(),
        Err(error) => return Err(error),
    };
    let mut wanted = if args.clear { policy::Policy::default() } else { known };
    for rule in &args.remove {
        wanted = wanted.remove(rule)?;
    }
    wanted = wanted.merge(&given(args)?);
    if changes(args) {
        store.set_policy(&args.run, &wanted)?;
    }
    let rules: Vec<String> = wanted.rules().map(|rule| rule.to_string()).collect();
    context.print(&json!({ "run": args.run, "rules": rules }), |_, out| {
        if rules.is_empty() {
            return out.line(format_args!("{} keeps everything", args.run));
        }
        rules.iter().try_for_each(|rule| out.line(rule))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn changes(args: &Policy) -> bool {
    args.clear || !args.remove.is_empty() || given(args).is_ok_and(|policy| !policy.is_empty())
}

fn given(args: &Policy) -> Result<policy::Policy> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut keep = |rule: Keep| rules.push(Rule::Keep(rule));
    args.keep_last.into_iter().for_each(|n| keep(Keep::Last(n)));
    args.keep_best.iter().for_each(|best| keep(Keep::Best { metric: best.metric.clone(), n: best.count }));
    args.keep_every.into_iter().for_each(|n| keep(Keep::Every(n)));
    args.keep_every_duration.into_iter().for_each(|time| keep(Keep::EveryDuration(time.as_secs())));
    args.keep_within.into_iter().for_each(|time| keep(Keep::Within(time.as_secs())));
    args.keep_step.iter().for_each(|&step| keep(Keep::Step(step)));
    args.keep_tagged.then(|| keep(Keep::Tagged));
    for thin in &args.thin {
        rules.push(Rule::Thin(policy::Thin {
            component: thin.component.clone(),
            newest: thin.newest,
            best: thin.best,
        }));
    }
    Ok(rules.into_iter().collect())
}
