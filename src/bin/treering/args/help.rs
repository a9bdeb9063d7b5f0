//! The front page: what `treering --help` shows, in groups.
//!
//! clap lists subcommands in one heap; the groups here are rendered from the same definitions into its template, so a
//! command's line is written once, where it is defined.

use std::fmt::Write;

use clap::CommandFactory;
use clap::builder::styling::Styles;

use super::Cli;

/// Which commands stand together, what most people need first. A test holds that each command is in one group.
pub(crate) const GROUPS: &[(&str, &[&str])] = &[
    ("Commands", &["save", "log", "best", "restore", "policy", "gc", "verify", "bench"]),
    ("Getting started", &["init", "demo", "completions"]),
    ("History", &["runs", "show", "why", "metric", "annotate", "tag", "untag", "fork", "watch"]),
    ("Taking out", &["cat", "state", "export"]),
    ("Housekeeping", &["forget", "undo", "lease", "stats", "du", "doctor", "repair", "rebuild", "upgrade"]),
];

/// The whole command line, with its front page.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command().styles(Styles::styled()).max_term_width(100);
    let page = front_page(&command);
    command.help_template(page)
}

fn front_page(command: &clap::Command) -> String {
    let styles = command.get_styles();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let mut page = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for (title, names) in GROUPS {
        let _ = write!(page, "\n{header}{title}:{header:#}\n");
        for name in *names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(page, "  {literal}{name:<11}{literal:#}  {about}");
        }
    }
    let _ = write!(page, "\n{header}Options:{header:#}\n{{options}}\n\n");
    let _ = write!(
        page,
        "{literal}treering help COMMAND{literal:#} says more; {literal}treering demo{literal:#} shows it."
    );
    page
}
