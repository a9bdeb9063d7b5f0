//! `treering man`: a page for the whole and one for each command.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use clap_mangen::Man as Page;
use treering::{Error, Result};

use crate::args::{self, Man};
use crate::context::Context;

pub(crate) fn run(args: &Man, _context: &Context) -> Result<ExitCode> {
    let failed = |op, source| Error::Io { op, path: args.dir.clone(), source };
    std::fs::create_dir_all(&args.dir).map_err(|e| failed("create", e))?;
    write_pages(&args.dir).map_err(|e| failed("write into", e))?;
    Ok(ExitCode::SUCCESS)
}

fn write_pages(dir: &Path) -> io::Result<()> {
    let mut command = args::command().disable_help_subcommand(true);
    command.build();
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        Page::new(subcommand.clone()).generate_to(dir)?;
    }
    let page = Page::new(command.clone());
    let mut out = BufWriter::new(File::create(dir.join(page.get_filename()))?);
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    // The groups of the front page, a section for each.
    for (title, names) in args::GROUPS {
        let members = names
            .iter()
            .enumerate()
            .filter_map(|(at, name)| Some(command.find_subcommand(name)?.clone().display_order(at)));
        let group = clap::Command::new("treering").subcommand_help_heading(*title).subcommands(members);
        Page::new(group).render_subcommands_section(&mut out)?;
    }
    page.render_options_section(&mut out)?;
    page.render_version_section(&mut out)?;
    out.flush()
}
