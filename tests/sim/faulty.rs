//! A disk that does something else now and then: each operation is shown to a rule first.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use treering::disk::{Disk, DiskFile, FileSystem, Lock, Name};

/// What is about to happen, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Create,
    Open,
    Append,
    Sync,
    Read,
    Link,
    Unlink,
    MakeFolder,
    RemoveFolder,
    SyncFolder,
    List,
    Lock,
}

/// What a rule makes of an operation.
pub(crate) enum Say {
    /// It is done.
    Go,
    /// It is not done, and fails like this.
    Fail(io::ErrorKind),
    /// It is done, and fails all the same.
    Lie(io::ErrorKind),
    /// A link is made even if its name is taken.
    Overwrite,
}

type Rule = Arc<dyn Fn(Act, &Path) -> Say + Send + Sync>;

#[derive(Clone)]
pub(crate) struct FaultyDisk {
    inner: Arc<dyn Disk>,
    rule: Rule,
}

impl FaultyDisk {
    pub(crate) fn new(disk: impl Disk + 'static, rule: impl Fn(Act, &Path) -> Say + Send + Sync + 'static) -> Self {
        FaultyDisk { inner: Arc::new(disk), rule: Arc::new(rule) }
    }

    /// One that does nothing else.
    pub(crate) fn fair(disk: impl Disk + 'static) -> FaultyDisk {
        FaultyDisk::new(disk, |_, _| Say::Go)
    }

    /// Calls `before` once, before the operation of this number.
    pub(crate) fn meanwhile(
        disk: impl Disk + 'static,
        number: usize,
        before: impl FnOnce() + Send + 'static,
    ) -> FaultyDisk {
        let state = Mutex::new((0, Some(before)));
        FaultyDisk::new(disk, move |act, _| {
            let hook = {
                let mut state = state.lock().unwrap();
                let changes = !matches!(act, Act::Open | Act::Read | Act::List);
                state.0 += usize::from(changes);
                if state.0 > number { state.1.take() } else { None }
            };
            hook.into_iter().for_each(|hook| hook());
            Say::Go
        })
    }

    fn done<T>(&self, act: Act, path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.did((self.rule)(act, path), work)
    }

    fn did<T>(&self, said: Say, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match said {
            Say::Go | Say::Overwrite => work(),
            Say::Fail(how) => Err(how.into()),
            Say::Lie(how) => work().and_then(|_| Err(how.into())),
        }
    }

    fn file(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { file, path: path.to_path_buf(), disk: self.clone() })
    }
}

impl std::fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FaultyDisk({:?})", self.inner)
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.done(Act::Create, path, || self.inner.create(path)).map(|file| self.file(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.done(Act::Open, path, || self.inner.open(path)).map(|file| self.file(path, file))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.done(Act::Open, path, || self.inner.open_append(path)).map(|file| self.file(path, file))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        match (self.rule)(Act::Link, to) {
            Say::Overwrite => self.inner.unlink(to).or(Ok(())).and_then(|()| self.inner.link(from, to)),
            said => self.did(said, || self.inner.link(from, to)),
        }
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.done(Act::Unlink, path, || self.inner.unlink(path))
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.done(Act::MakeFolder, path, || self.inner.make_folder(path))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.done(Act::RemoveFolder, path, || self.inner.remove_folder(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.done(Act::SyncFolder, path, || self.inner.sync_folder(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Name>> {
        self.done(Act::List, path, || self.inner.list(path))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.done(Act::Lock, path, || self.inner.lock(path))
    }

    fn kind(&self, path: &Path) -> FileSystem {
        self.inner.kind(path)
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    disk: FaultyDisk,
}

impl DiskFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let FaultyFile { file, path, disk } = self;
        disk.done(Act::Append, path, || file.append(bytes))
    }

    fn sync(&mut self) -> io::Result<()> {
        let FaultyFile { file, path, disk } = self;
        disk.done(Act::Sync, path, || file.sync())
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.done(Act::Read, &self.path, || self.file.read_exact_at(out, offset))
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
}
