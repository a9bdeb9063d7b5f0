//! What kind of place a store lies in: what a sync means there, and where its catalog may live.

use std::path::{Path, PathBuf};

use super::{CatalogPlace, Options};
use crate::catalog::Catalog;
use crate::disk::FileSystem;
use crate::error::Result;
use crate::id::{Hash, StoreId};

/// What an acknowledged save survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The end of any process: the file system keeps nothing over a power loss.
    Process,
    /// A power loss.
    Local,
}

pub(super) fn durability(root: &Path) -> Durability {
    match FileSystem::of(root) {
        FileSystem::Memory => Durability::Process,
        FileSystem::Local | FileSystem::Network => Durability::Local,
    }
}

/// True if other machines may see the same files.
pub(crate) fn is_network(root: &Path) -> bool {
    FileSystem::of(root) == FileSystem::Network
}

/// The first place that takes it: a catalog is never a reason not to open a store.
pub(super) fn open_catalog(root: &Path, store: StoreId, origin: Hash, options: &Options) -> Result<Catalog> {
    if options.catalog == CatalogPlace::Auto {
        for path in places(root, store) {
            if let Ok(catalog) = Catalog::open(&path, store, origin) {
                return Ok(catalog);
            }
        }
    }
    Catalog::in_memory(store, origin)
}

pub(super) fn places(root: &Path, store: StoreId) -> Vec<PathBuf> {
    let cache = std::env::var_os("TREERING_CACHE").map(PathBuf::from);
    let uid = rustix::process::getuid().as_raw();
    let folder = cache.unwrap_or_else(|| std::env::temp_dir().join(format!("treering-{uid}")));
    places_in(root, &folder, store, uid, is_network)
}

/// SQLite keeps its promises on no network file system.
fn places_in(root: &Path, cache: &Path, store: StoreId, uid: u32, is_network: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if !is_network(root) {
        places.push(root.join(crate::format::keys::CATALOG));
    }
    if !is_network(cache) && own_folder(cache, uid) {
        places.push(cache.join(format!("{store}.sqlite")));
    }
    places
}

/// A folder that nobody else may write to: a planted catalog is not opened.
fn own_folder(folder: &Path, uid: u32) -> bool {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let _ = std::fs::DirBuilder::new().mode(0o700).create(folder);
    std::fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid && meta.mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn f048_no_catalog_lies_on_a_network_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let (root, cache) = (folder.path().join("store"), folder.path().join("cache"));
        let uid = rustix::process::getuid().as_raw();
        let store = StoreId([7; 16]);
        let places = |network: &[&Path]| places_in(&root, &cache, store, uid, |path| network.contains(&path));
        let (here, cached) = (root.join("catalog.sqlite"), cache.join(format!("{store}.sqlite")));
        assert_eq!(places(&[]), [here.clone(), cached.clone()]);
        assert_eq!(places(&[&root]), [cached]);
        assert!(places(&[&root, &cache]).is_empty());
        // Nor where others could plant one.
        std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(places(&[]), [here]);
        assert!(!is_network(folder.path()));
    }
}
