#!/usr/bin/env python3
"""Takes away, one after the other, what keeps a store safe: each sync, each check of a hash, each rule. Each time some
test must fail, or the tests do not look. mutants.py [NAME...]; works on a copy in target/mutants."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target/mutants/tree"


class Mutant(NamedTuple):
    """What is taken away, where, and what stands there instead; and the tests that should notice first."""

    name: str
    file: str
    was: str
    instead: str
    tests: str


LOCAL, LOG, GC, JOINT = "src/backend/local.rs", "src/store/log.rs", "src/gc/mod.rs", "src/save/joint.rs"
UPGRADE = "src/store/upgrade.rs"

MUTANTS = [
    # Syncs.
    Mutant("a pack is not synced", LOCAL, "let synced = self.file()?.sync();", "self.file()?;\n        let synced: io::Result<()> = Ok(());", "f009"),
    Mutant("the folder of a pack is not synced", LOCAL,
           "folders_of(packs).iter().try_for_each(|folder| self.backend.sync_folder(&self.backend.root.join(folder)))",
           "Ok(())", "f011 crash::"),
    Mutant("an entry is not synced", LOCAL, 'file.sync().context("sync", path)', "Ok(())", "f009 crash::"),
    Mutant("the log's folder is not synced", LOCAL,
           "self.sync_log().map_err(|e| Error::Unknown { slot, source: Box::new(e) })", "Ok(())", "f008 crash::"),
    Mutant("an entry of another is not made durable", LOG, "if self.backend().sync_log().is_err() {", "if false {", "f010"),
    Mutant("one's own entry that was said to exist is not made durable", LOG,
           "self.backend().sync_log().map_err(unknown)?;", "let _ = unknown;", "f019"),
    Mutant("a new store's folders are not synced before its description", LOCAL,
           "self.sync_folder(&self.root)?;\n        self.check_exclusive()?;", "self.check_exclusive()?;", "f011"),
    Mutant("a new store's folders of packs are not synced", LOCAL,
           "self.sync_folder(&self.root.join(keys::PACKS))?;\n        self.make_reserve();", "self.make_reserve();", "f011"),
    Mutant("a new store's description has no durable name", LOCAL,
           "self.sync_folder(&self.root)?;\n        // The store's own name", "// The store's own name", "a_store_is_made"),
    Mutant("a new store's own name is not durable", LOCAL,
           "Some(parent) => self.sync_folder(parent),", "Some(_) => Ok(()),", "a_store_is_made"),
    Mutant("deletions are not synced before they are noted", LOCAL,
           "fn sync_deletions(&self, packs: &[PackId]) -> Result<()> {",
           "fn sync_deletions(&self, packs: &[PackId]) -> Result<()> {\n        if !packs.is_empty() {\n            return Ok(());\n        }",
           "f011"),
    Mutant("folders that are made on the way are not synced", LOCAL,
           "_ => folder.parent().map_or(Ok(()), |above| self.disk.sync_folder(above))?,", "_ => {}", "f011"),
    # Hashes.
    Mutant("a chunk's hash is not checked", "src/store/pack_reader.rs", "if ChunkId::of(out) != chunk {", "if false {", "f083 f117"),
    Mutant("memory is believed to be what the parent was", "src/save/encode.rs",
           "(ChunkId::of(bytes) == chunk).then_some(bytes)", "Some(bytes)", "before::"),
    Mutant("a difference's hash is not checked by verify", "src/verify.rs",
           "if ChunkId::of(&bytes) == row.chunk { Ok(bytes) }", "if true { Ok(bytes) }", "f083"),
    Mutant("a frame's checksum is not checked", "src/format/pack.rs", "if crc32fast::hash(frame) != row.crc {", "if false {", "f012"),
    Mutant("a footer's hash is not checked", "src/store/pack_reader.rs",
           "if hash != pack.footer || crate::id::Hash::of(&bytes) != hash {", "if false {", "f012 f014"),
    Mutant("a footer may be another pack's", "src/format/pack.rs", "} else if footer.pack != expect {", "} else if false {",
           "a_pack_cannot_stand_in"),
    Mutant("an entry's hash is not checked", "src/format/entry.rs", "if Hash::of(content) != hash {", "if false {", "f012"),
    Mutant("an entry may be another slot's", "src/format/entry.rs", "if found != slot {", "if false {", "f014 an_entry_says"),
    Mutant("an entry may be another store's", "src/format/entry.rs", "if found != store {", "if false {", "an_entry_says"),
    Mutant("entries need not be a chain", LOG,
           "_ if position.head != UNKNOWN && entry.previous != position.head => {",
           "_ if false && entry.previous != position.head => {", "f014_an_entry_of_another_history"),
    Mutant("a pack's header is not checked", "src/verify.rs", "if found == expected {", "if true || found == expected {", "f012"),
    # Rules.
    Mutant("a commit may use what is condemned", "src/store/manifest.rs", "if state != Some(PackState::Live) {",
           "if state.is_none() {", "f069"),
    Mutant("a commit rests on what it saw before others wrote", "src/save/commit.rs", "if catalog.position()? != seen {",
           "if catalog.position()? == seen && false {", "f069 orderings::"),
    Mutant("users are asked for before what was gathered is written", "src/catalog/fold.rs",
           "self.gathered.write(self.tx)?;\n        packs::users_of", "packs::users_of", "collection:: chains::"),
    Mutant("an aborted save may commit", "src/save/commit.rs",
           "if catalog.is_aborted(save)? {\n                return", "if false {\n                return", "f028 f068 model::"),
    Mutant("what is condemned is not asked before it is deleted", "src/gc/sweep.rs",
           "filter(|pack| pack.state == PackState::Condemned)", "filter(|_| true)", "collection::f072"),
    Mutant("a pack is written anew for the users that it had", "src/gc/repack.rs",
           "let same = marked.is_current(catalog, &rows)?;", "let same = true;", "f072 orderings::"),
    Mutant("an heir may lie in a pack that is not rewritten", "src/gc/mark.rs", "|(copy, used)| is_rewritten(copy.0) && self.hangs",
           "|(copy, used)| { let _ = &is_rewritten; true } && self.hangs", "f084"),
    Mutant("a save on another machine is taken for dead at once", LOCAL, "if newest(&name, &inside) >= abandoned {", "if false {",
           "f068_a_save"),
    Mutant("who holds a checkpoint loses what is written anew", "src/store/pack_reader.rs",
           "let Some(slot) = self.of else", "let Some(slot) = None::<u64> else", "f076_a_reader"),
    Mutant("readers on other machines have no time", "src/gc/sweep.rs", "now.distance(then) < grace", "grace < grace", "f076_a_reader"),
    Mutant("a clock that was ahead keeps what is condemned", "src/gc/sweep.rs", "now.distance(then) < grace",
           "now.0 < then.0 || now.distance(then) < grace", "f102_a_grace"),
    Mutant("an entry that is not seen yet is taken for lost", LOCAL,
           "if self.is_network() { NETWORK_LAG } else { Duration::ZERO }", "Duration::ZERO", "f020_an_entry"),
    Mutant("a pack that a listing lacks is taken for lost", "src/verify.rs",
           "let findings = cold.verify_packs(&packs, depth)?;",
           'if packs.iter().any(|pack| !lying.contains(&pack.pack)) { return Err(Error::damaged("a pack", "missing")); }\n'
           "let findings = cold.verify_packs(&packs, depth)?;", "f020_a_pack"),
    Mutant("a name that one's own link gave is in the way", LOCAL,
           "if self.is_same(from, &self.path(key)).unwrap_or(false)", "if false", "f019_f020_f071"),
    Mutant("a file that another machine removed is an error of reading", LOCAL,
           "io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle)", "io::ErrorKind::NotFound)", "f019_f020_f071"),
    Mutant("what is gone from a save's place is an error", LOCAL, "Error::Io { source, .. } if is_gone(&source) => {",
           "Error::Io { source, .. } if is_gone(&source) && false => {", "f019_f020_f071"),
    Mutant("a lock that is held is taken for a dead save's", LOCAL, "Ok(None) => continue,\n                Err(e) if e.kind()",
           "Ok(None) => bury(save)?,\n                Err(e) if e.kind()", "f028 f068"),
    Mutant("a save that committed may be aborted", GC,
           "if !aborted && catalog.has_packs_of(save)? {", "if false {", "f024 crash::"),
    Mutant("what comes after the end of a save stays", GC,
           "if !aborted && catalog.has_packs_of(save)? {", "if aborted || catalog.has_packs_of(save)? {", "f038"),
    Mutant("a save that runs is taken for a dead one", GC, "if !self.backend().is_staged(save)? {", "if true {", "f028 f068"),
    Mutant("what voids may have named is deleted", GC, "if catalog.has_voids()? {", "if false {", "commits_that_cannot_be_placed"),
    Mutant("much that nobody explains is deleted", GC, "if !unexplained {", "if false {", "f077"),
    Mutant("what another store has left here is deleted", GC, "packs.retain(|&pack| self.is_own(pack));", "", "f109"),
    Mutant("a log that was cut is believed", LOG, "None => Err(Error::Diverged { slot: last }),", "None => Ok(()),", "f078"),
    Mutant("a writer goes on behind what it does not know", LOG,
           "match catalog.damaged()?.into_iter().next() {", "match catalog.damaged()?.into_iter().next().filter(|_| false) {", "f073 f108"),
    Mutant("being short of files is taken for damage", "src/verify.rs",
           "let Error::Io { source, .. } = error else { return false };",
           "let Error::Io { source, .. } = error else { return false };\n    if source.raw_os_error().is_some() { return false; }", "f022"),
    Mutant("a writer need not know what writers must", UPGRADE, "check_features(&upgrade.writers", "check_features(&[]", "f108"),
    Mutant("a reader need not know what readers must", UPGRADE, "check_features(&upgrade.readers", "check_features(&[]", "f093"),
    Mutant("what a newer version folded is believed", LOG,
           "catalog.upgrades()?.iter().try_for_each(|upgrade| self.check_readable(upgrade))?;", "", "f093"),
    Mutant("somebody else's entry is taken for one's own", LOG,
           "let ours = found.as_deref() == Some(bytes);", "let ours = true;", "f032"),
    Mutant("what is known to be bad is relied on", "src/store/pack_reader.rs", "!place.bad && place.bases", "place.bases",
           "another_good_copy_heals"),
    Mutant("a base may be as deep as what rests on it", "src/store/pack_reader.rs",
           "self.best(*base).is_some_and(|base| base.depth < place.depth)", "self.best(*base).is_some()", "f081"),
    Mutant("chains have no bound", "src/format/pack.rs", "|| depth > DEPTH_MAX ||", "||", "f081"),
    Mutant("names can be taken twice", LOCAL, "self.check_exclusive()?;", "", "f016"),
    Mutant("a row of the catalog may lie", LOG, "match catalog.check_seals() {", "match Ok(()) {", "f045_a_row"),
    Mutant("what goes may be decided by a row that is old", "src/catalog/packs.rs",
           "seal::check_packs(&self.db, found.iter().map(|pack| pack.row))?;", "", "f045_a_row"),
    Mutant("policies believe every row", GC, "self.catalog().check_checkpoints(rows.iter().map(|row| row.slot))?;", "", "f045_a_row"),
    Mutant("rows and packs are never inspected", GC, "Ok(now < last || now >= last.plus_secs(INSPECTION_SECS))", "Ok(false && now < last)",
           "f045_a_row an_inspection"),
    Mutant("somebody who needs a pack may be missing", "src/catalog/packs.rs",
           "if by_row(db, pack)?.users != tokens.remove(&pack).unwrap_or_default() {", "if false {", "f045_somebody"),
    # Joint saves.
    Mutant("a receipt may be another attempt's", JOINT, "if of_save != self.save {", "if false {", "f038"),
    Mutant("a receipt may be another rank's", JOINT, "} else if of_rank != rank || of_ranks != ranks {", "} else if false {", "f039"),
    Mutant("a part's packs may have any number", JOINT, "} else if !has_own_numbers(receipt) {", "} else if false {", "f039"),
    Mutant("what a receipt names need not be there", JOINT, "share.chunks.iter().find(|chunk| !stored(chunk))",
           "share.chunks.iter().find(|chunk| !stored(chunk)).filter(|_| false)", "f039"),
    Mutant("a joint save may lack a part", JOINT, "if rank < ranks {", "if false {", "f035"),
    Mutant("rows may be there twice, or not at all", JOINT, "if stretch.start != end {", "if false {", "f039"),
    Mutant("the last rows may be missing", JOINT, "if end != meta.bytes {", "if false {", "f039"),
    Mutant("parts may be of different steps", JOINT, "part.run != options.run || part.step != options.step", "false", "f039"),
    Mutant("parts may be of different tensors", JOINT, "share.meta() != meta", "false", "f039"),
    Mutant("a chunk may be shorter than a receipt says", JOINT, "how.chunk_bytes == length", "true", "f039"),
    Mutant("what parts rely on is not said", JOINT,
           "needs.extend(self.receipts.iter().flat_map(|part| &part.needs));", "needs.len();", "joint::"),
    Mutant("the packs of a part have no durable names", LOCAL,
           "self.published.store(true, Ordering::Relaxed);",
           "self.published.store(true, Ordering::Relaxed);\n        if self.lock.is_none() {\n            return packs.iter().try_for_each("
           "|&pack| self.backend.link_new(&self.temporary(pack), &Key::pack(pack)));\n        }", "f036"),
    Mutant("a receipt's hash is not checked", "src/format/receipt.rs", "if Hash::of(json).0 != *hash {", "if false {", "f039"),
    Mutant("the one who commits numbers packs as a part does", JOINT, "ranks * PACKS_EACH, 1, staging)", "0, 1, staging)", "joint::"),
    Mutant("receipts of what is committed stay", JOINT, "let _ = store.backend().remove_receipts(self.save);", "", "joint::"),
    Mutant("receipts without a place stay", LOCAL, "< abandoned && !self.is_staged(save)? {", "< abandoned && false {", "joint:: crash::"),
    Mutant("receipts of a save that runs are taken", LOCAL, "< abandoned && !self.is_staged(save)? {", "< abandoned {", "joint::"),
    Mutant("boxes may overlap", "src/tensor/boxes.rs", "    odd.is_empty()\n", "    true\n", "boxes"),
    Mutant("elements may be in three boxes", "src/tensor/boxes.rs", "if bytes != tensor.bytes ||", "if", "boxes"),
    Mutant("what a joint save left has no place", JOINT, "staging.publish(&[])?;\n", "", "f036 a_commit_that_is_refused"),
]


def main() -> int:
    asked = sys.argv[1:]
    chosen = [mutant for mutant in MUTANTS if not asked or any(word in mutant.name for word in asked)]
    copy()
    survivors = []
    for mutant in chosen:
        killed, how = kill(mutant)
        print(f"{'killed  ' if killed else 'SURVIVES'}  {mutant.name}: {how}", flush=True)
        if not killed:
            survivors.append(mutant.name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed")
    return 1 if survivors else 0


def copy() -> None:
    shutil.rmtree(COPY, ignore_errors=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name)


def kill(mutant: Mutant) -> tuple[bool, str]:
    path = COPY / mutant.file
    whole = path.read_text(encoding="utf-8")
    if whole.count(mutant.was) != 1:
        return False, f"{mutant.file} has {whole.count(mutant.was)} places for it: the list is old"
    try:
        path.write_text(whole.replace(mutant.was, mutant.instead), encoding="utf-8")
        first = test(mutant.tests.split())
        # The named ones should notice; if not, anybody may.
        return first if first[0] or os.environ.get("TREERING_MUTANTS_FAST") else test([])
    finally:
        path.write_text(whole, encoding="utf-8")


def programs(names: list[str]) -> list[str]:
    """The programs of tests that have these. To compile the others for each mutant takes longer than all else."""

    def has_one(folder: str) -> bool:
        for file in (COPY / folder).rglob("*.rs"):
            # A test's name follows `fn`, or is a line of a macro that makes tests.
            code = re.findall(r"\bfn \w+|^ +\w+,$", file.read_text(encoding="utf-8"), re.MULTILINE)
            tests = [f"{file.stem}::{line.strip(' ,').removeprefix('fn ')}" for line in code]
            if any(name in test for test in tests for name in names):
                return True
        return not names

    chosen = {"--lib": "src", "--test=sim": "tests/sim", "--test=it": "tests/it"}
    found = [program for program, folder in chosen.items() if has_one(folder)]
    found = found or list(chosen)
    # What only the command line needs is compiled for the tests that run it.
    return found if "--test=it" in found else [*found, "--no-default-features"]


def test(names: list[str]) -> tuple[bool, str]:
    command = [os.environ.get("CARGO", "cargo"), "test", "--quiet", *programs(names), "--no-fail-fast", "--", *names]
    environment = {
        **os.environ,
        "CARGO_TARGET_DIR": str(COPY.parent / "build"),
        "CARGO_INCREMENTAL": "1",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "TREERING_CRASH_STATES": "4000",
    }
    done = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True, timeout=1800)
    said = done.stdout + done.stderr
    if "error: could not compile" in said or "error[E" in said:
        return False, "it does not compile:\n" + said[-1500:]
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("test ") and line.endswith("FAILED")]
    failed = failed or [line.strip() for line in done.stdout.splitlines() if line.startswith("    ") and "::" in line]
    how = ", ".join(sorted(set(failed))[:3]) or ("the tests crash" if done.returncode else "every test passes")
    return done.returncode != 0, how


if __name__ == "__main__":
    sys.exit(main())
