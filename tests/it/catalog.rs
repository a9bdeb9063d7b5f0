//! The catalog is a cache: whatever becomes of it, the answers stay the same.

use treering::catalog::Filter;
use treering::gc::GcOptions;
use treering::save::SaveOptions;
use treering::store::Store;

use crate::helpers::{Place, at, floats, metrics, options};

/// A store with a history that has a bit of everything.
fn eventful() -> Place {
    let place = Place::new();
    let file = |seed: u64| {
        place.file(&format!("{seed}.safetensors"), &[floats("model.a", 300_000, 1), floats("optimizer.b", 9000, seed)])
    };
    for step in 1..=5 {
        let with = SaveOptions {
            metrics: metrics(&[("loss", 1.0 / step as f64), ("nan", f64::NAN)]),
            tags: vec![format!("t{step}")],
            ..options("r", step)
        };
        place.save_with(&file(step), &with).unwrap();
    }
    place.save_with(&file(9), &SaveOptions { parent: Some(at("r@4")), ..options("r", 5) }).unwrap();
    place.store.fork("s", &at("r@2")).unwrap();
    place.store.annotate(&at("r@3"), metrics(&[("loss", 0.1)]), Some("spike".into())).unwrap();
    place.store.set_mode("r", "loss", treering::format::policy::Mode::Min).unwrap();
    place.store.lease(&at("r@1"), std::time::Duration::from_secs(9999), "me").unwrap();
    place.policy("r", &["keep-last 3", "thin optimizer:2"]);
    place.forget("r@2");
    place.gc();
    place
}

fn answers(store: &Store) -> String {
    let everything = Filter { superseded: true, forgotten: true, ..Filter::default() };
    let rows = store.log(&everything).unwrap();
    let why: Vec<_> = rows.iter().filter_map(|row| store.why(&at(&row.address())).ok()).collect();
    let runs = store.runs().unwrap();
    let usage = store.usage(None).unwrap();
    format!("{rows:#?}\n{why:#?}\n{runs:#?}\n{usage:#?}\n{:?}", store.best("r", "loss", None, 9).unwrap())
}

/// Brings what lies in the catalog's journal into its file, which then is all of it.
fn settle(store: &Store) -> std::path::PathBuf {
    let path = store.root().join("catalog.sqlite");
    let all = rusqlite::Connection::open(&path).unwrap();
    all.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    path
}

#[track_caller]
fn same_after(place: &Place, harm: impl FnOnce(&std::path::Path)) {
    let before = answers(&place.reopened());
    settle(&place.store);
    harm(&place.store.root().join("catalog.sqlite"));
    let after = answers(&place.reopened());
    assert!(before == after, "{before}\n---\n{after}");
    assert!(place.reopened().verify(treering::verify::Depth::Deep).unwrap().is_sound());
}

#[test]
fn a_catalog_of_an_older_version_goes_on() {
    let place = eventful();
    let older = |sql: &str| {
        let catalog = rusqlite::Connection::open(settle(&place.store)).unwrap();
        let back = "DROP TABLE upgrades; ALTER TABLE packs DROP COLUMN condemned; PRAGMA user_version = 1;";
        catalog.execute_batch(&format!("{back} {sql}")).unwrap();
    };
    let created = |place: &Place| place.reopened().runs().unwrap()[0].run.created.0;
    older("UPDATE runs SET created = 7");
    assert_eq!(created(&place), 7, "it was made anew");
    place.reopened().tag(&at("r@3"), &["written".into()], &[]).unwrap();

    // Unless the older version passed an entry: this one may know it.
    older("INSERT INTO damaged VALUES (3, 'of a kind that it did not know')");
    assert_ne!(created(&place), 7);
    place.reopened().tag(&at("r@3"), &["again".into()], &[]).unwrap();
}

#[test]
fn a_rebuilt_catalog_equals_the_one_that_grew() {
    let place = eventful();
    let before = answers(&place.store);
    place.store.rebuild().unwrap();
    assert_eq!(before, answers(&place.store));
}

#[test]
fn f044_a_deleted_catalog_is_made_again() {
    let place = eventful();
    same_after(&place, treering::catalog::Catalog::remove);
    same_after(&place, |path| std::fs::remove_file(path).unwrap());
}

#[test]
fn f044_a_deleted_write_ahead_log_is_no_loss() {
    let place = eventful();
    same_after(&place, |path| {
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    });
}

#[test]
fn f045_garbage_is_no_catalog() {
    let place = eventful();
    same_after(&place, |path| {
        treering::catalog::Catalog::remove(path);
        std::fs::write(path, vec![b'?'; 10_000]).unwrap();
    });
}

#[test]
fn f045_a_cut_catalog_is_made_again() {
    let place = eventful();
    for keep in [0, 1, 100, 5000] {
        same_after(&place, |path| {
            treering::catalog::Catalog::remove(path);
            let bytes = std::fs::read(settle(&place.reopened())).unwrap();
            treering::catalog::Catalog::remove(path);
            std::fs::write(path, &bytes[..keep]).unwrap();
        });
    }
}

#[test]
fn f045_the_catalog_of_another_store_is_not_believed() {
    let (place, other) = (eventful(), eventful());
    other.store.rebuild().unwrap();
    same_after(&place, |path| {
        treering::catalog::Catalog::remove(path);
        std::fs::copy(settle(&other.store), path).unwrap();
    });
}

/// Whether or not a collection looks at every row, as it does now and then.
#[test]
fn f045_a_row_that_lies_costs_no_data() {
    let lies = [
        "UPDATE packs SET refs = 0",
        "UPDATE packs SET refs = 0, users = zeroblob(16)",
        "UPDATE packs SET state = 1",
        "UPDATE checkpoints SET status = 2",
        "UPDATE checkpoints SET status = 1 WHERE slot = 1",
        "UPDATE checkpoints SET packs = x''",
        "UPDATE checkpoints SET manifest = zeroblob(32)",
        "UPDATE checkpoints SET step = step + 1",
        "UPDATE checkpoints SET step = 99 WHERE slot = 0",
        "DELETE FROM checkpoints WHERE slot = 0",
        "DELETE FROM packs WHERE id = 1",
        // An old page that came back.
        "UPDATE packs SET (refs, users, seal) = (SELECT refs, users, seal FROM before WHERE before.id = packs.id) WHERE id = 1",
    ];
    let ways = [(false, false), (true, false), (true, true)];
    for (sql, (policy, inspected)) in lies.iter().flat_map(|sql| ways.map(|way| (sql, way))) {
        let place = Place::new();
        let file = |seed| place.file(&format!("{seed}.safetensors"), &[floats("a", 3000, seed), floats("b", 3000, 9)]);
        let files = [1, 2].map(file);
        place.save("r", 1, &files[0]);
        let catalog = rusqlite::Connection::open(place.store.root().join("catalog.sqlite")).unwrap();
        catalog.execute_batch("CREATE TABLE before AS SELECT * FROM packs").unwrap();
        place.save("r", 2, &files[1]);
        if inspected {
            place.gc();
        }
        catalog.execute_batch(sql).unwrap();
        catalog.execute_batch("DROP TABLE before").unwrap();
        drop(catalog);
        let lied = Place { store: place.reopened(), folder: place.folder };
        if policy {
            lied.policy("r", &["keep-last 1"]);
        }
        lied.gc();
        if inspected {
            lied.store.rebuild().unwrap();
        }
        lied.assert_restores("r@2", &files[1]);
        lied.save("r", 3, &files[0]);
        lied.assert_restores("r@2", &files[1]);
        lied.gc();
        lied.assert_restores("r@3", &files[0]);
        if !policy {
            lied.assert_restores("r@1", &files[0]);
            lied.assert_restores("r@2", &files[1]);
        }
        assert!(lied.store.verify(treering::verify::Depth::Deep).unwrap().is_sound(), "{sql}");
    }
}

/// A pack is written anew without what nobody needs: of whom a row has vanished is not nobody.
#[test]
fn f045_somebody_who_cannot_be_seen_is_not_nobody() {
    for lie in ["UPDATE checkpoints SET status = 2 WHERE slot = ", "DELETE FROM checkpoints WHERE slot = "] {
        let place = Place::new();
        let tensors = ["a", "b", "c", "d"].map(|name| floats(name, 20_000, u64::from(name.as_bytes()[0])));
        place.save("r", 1, &place.file("all.safetensors", &tensors));
        place.save("r", 2, &place.file("first.safetensors", &tensors[..1]));
        // Far from the others: rows that are neighbours vouch for each other.
        (0..70).for_each(|n| drop(place.store.annotate(&at("r@2"), metrics(&[("loss", f64::from(n))]), None).unwrap()));
        let third = place.file("third.safetensors", &tensors[2..3]);
        place.save("s", 1, &third);
        let slot = place.store.find(&at("s@1")).unwrap().slot;
        place.gc();
        place.forget("r@1");
        let catalog = rusqlite::Connection::open(place.store.root().join("catalog.sqlite")).unwrap();
        catalog.execute_batch(&format!("{lie}{slot}")).unwrap();
        drop(catalog);
        let report = place.reopened().gc(&GcOptions::default()).unwrap();
        assert_eq!(report.packs_rewritten, 1);
        place.store.rebuild().unwrap();
        place.assert_restores("s@1", &third);
    }
}

/// A save that died when it had committed is told from one that never did by the rows of its packs.
#[test]
fn f045_who_has_no_rows_may_have_committed() {
    for inspected in [false, true] {
        let place = Place::new();
        let file = place.file("1.safetensors", &[floats("a", 3000, 1)]);
        place.save("r", 1, &file);
        if inspected {
            place.gc();
        }
        let staging = place.store.root().join("tmp").join(place.store.find(&at("r@1")).unwrap().save.to_hex());
        std::fs::create_dir(&staging).unwrap();
        std::fs::write(staging.join("lock"), "").unwrap();
        let catalog = rusqlite::Connection::open(place.store.root().join("catalog.sqlite")).unwrap();
        catalog.execute_batch("DELETE FROM packs").unwrap();
        drop(catalog);
        assert_eq!(place.reopened().gc(&GcOptions::default()).unwrap().dead_saves, 0);
        assert!(!staging.exists());
        place.store.rebuild().unwrap();
        place.assert_restores("r@1", &file);
    }
}

#[test]
fn f046_an_older_catalog_catches_up() {
    let place = eventful();
    place.delete_catalog();
    let old = std::fs::read(settle(&place.reopened())).unwrap();
    let newer = Place { store: place.reopened(), folder: place.folder };
    newer.save("r", 20, &newer.path("9.safetensors"));
    newer.gc();
    same_after(&newer, |path| {
        treering::catalog::Catalog::remove(path);
        std::fs::write(path, &old).unwrap();
    });
}

#[test]
fn f047_a_locked_catalog_does_not_stop_a_save() {
    let place = Place::new();
    let file = place.file("1.safetensors", &[floats("model.a", 3000, 1)]);
    place.save("r", 1, &file);
    let lock = rusqlite::Connection::open(place.store.root().join("catalog.sqlite")).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    place.save("r", 2, &file);
    let row = place.store.annotate(&at("r@2"), metrics(&[("loss", 1.0)]), None).unwrap();
    assert_eq!(row.metrics["loss"].0, 1.0);
    let opened_meanwhile = place.reopened();
    assert_eq!(opened_meanwhile.find(&at("r@latest")).unwrap().step, 2);
    lock.execute_batch("ROLLBACK").unwrap();
    place.assert_restores("r@2", &file);
}

/// Somebody else puts a catalog where ours would be: a link, and a database of views and triggers.
#[test]
fn f051_a_planted_catalog_is_at_worst_made_again() {
    let place = eventful();
    let treasure = place.path("treasure");
    std::fs::write(&treasure, "").unwrap();
    same_after(&place, |path| {
        treering::catalog::Catalog::remove(path);
        std::os::unix::fs::symlink(&treasure, path).unwrap();
    });
    assert_eq!(std::fs::metadata(&treasure).unwrap().len(), 0, "it was written through");
    same_after(&place, |path| {
        treering::catalog::Catalog::remove(path);
        let planted = rusqlite::Connection::open(path).unwrap();
        let traps = "CREATE TABLE seals_ (checkpoints, packs); CREATE VIEW position AS SELECT 1 AS id, zeroblob(16) AS store, \
                     9999 AS next, load_extension('/tmp/x') AS head; CREATE VIEW checkpoints AS SELECT * FROM seals_; \
                     PRAGMA user_version = 3;";
        planted.execute_batch(traps).unwrap();
    });
    // All tables as they should be, and a trigger that empties them.
    same_after(&place, |path| {
        let planted = rusqlite::Connection::open(path).unwrap();
        planted.execute_batch("CREATE TRIGGER t AFTER INSERT ON packs BEGIN DELETE FROM checkpoints; END").unwrap();
    });
    let more = place.file("more.safetensors", &[floats("model.a", 3000, 77)]);
    place.save("r", 30, &more);
    place.gc();
    place.assert_restores("r@30", &more);
    place.assert_restores("r@5", &place.path("9.safetensors"));
}

#[test]
fn a_store_that_cannot_be_written_can_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let place = eventful();
    let set = |mode: u32| {
        std::fs::set_permissions(place.store.root(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set(0o555);
    if std::fs::write(place.store.root().join("probe"), "").is_ok() {
        println!("skipped: permissions do not stop this user");
        set(0o755);
        std::fs::remove_file(place.store.root().join("probe")).unwrap();
        return;
    }
    place.assert_restores("r@5", &place.path("9.safetensors"));
    set(0o755);
}

/// A command would wait for the syncs that bring the journal into the file: it is left to a later one, until it is long.
#[test]
fn a_store_that_is_closed_leaves_the_journal_of_its_catalog() {
    let place = Place::new();
    place.save("r", 1, &place.file("a.safetensors", &[floats("a", 10, 1)]));
    let root = place.store.root().to_path_buf();
    let Place { folder, store } = place;
    drop(store);
    assert!(std::fs::metadata(root.join("catalog.sqlite-wal")).unwrap().len() > 0);
    let again = Store::open(&root, treering::store::Options::default()).unwrap();
    assert_eq!(again.log(&Filter::default()).unwrap().len(), 1);
    drop(folder);
}
