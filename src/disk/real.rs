//! The operating system's file system.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags};

use super::{Disk, DiskFile, FileSystem, Lock, Name};
use crate::env::Time;
use crate::format::config::Shared;

/// Files of the operating system, with the modes that the store's description asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk {
    shared: Option<Shared>,
}

impl RealDisk {
    /// Files whose modes follow the umask and the folder, or are fixed.
    pub fn new(shared: Option<Shared>) -> RealDisk {
        RealDisk { shared }
    }

    fn file_mode(&self) -> Option<u32> {
        self.shared.map(|shared| match shared {
            Shared::Group => 0o660,
            Shared::Private => 0o600,
        })
    }

    fn folder_mode(&self) -> Option<u32> {
        self.shared.map(|shared| match shared {
            Shared::Group => 0o2770,
            Shared::Private => 0o700,
        })
    }
}

const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits() as i32;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).custom_flags(NO_FOLLOW);
        // Never wider than asked for, not even for a moment.
        let file = options.mode(self.file_mode().unwrap_or(0o666)).open(path)?;
        if let Some(mode) = self.file_mode() {
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        }
        Ok(Box::new(RealFile::of(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile::of(OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path)?)))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile::of(OpenOptions::new().append(true).custom_flags(NO_FOLLOW).open(path)?)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().mode(self.folder_mode().unwrap_or(0o777)).create(path)?;
        match self.folder_mode() {
            Some(mode) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            // A name may vanish between the listing and the look at it.
            match entry.metadata() {
                Ok(meta) => names.push(Name {
                    name: entry.file_name().to_string_lossy().into_owned(),
                    folder: meta.is_dir(),
                    bytes: meta.len(),
                    modified: Time(meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())),
                }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(names)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).custom_flags(NO_FOLLOW);
        let file = options.mode(self.file_mode().unwrap_or(0o666)).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Whoever held it last has removed it meanwhile: a lock that nobody else can find keeps nobody away.
            Ok(()) if file.metadata()?.nlink() == 0 => Ok(None),
            Ok(()) => Ok(Some(Box::new(RealLock { _file: file }))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn kind(&self, path: &Path) -> FileSystem {
        FileSystem::of(path)
    }
}

/// The device is told to begin after so many bytes, and a sync then waits for few.
const AHEAD_BYTES: u64 = 16 << 20;

/// Has the device begin with a file while it is still being written.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Bytes of which the device has not heard yet.
    waiting: u64,
}

impl Ahead {
    /// So many bytes were written to the file.
    pub(crate) fn wrote(&mut self, file: &File, bytes: u64) {
        self.waiting += bytes;
        if self.waiting >= AHEAD_BYTES {
            self.waiting = 0;
            start_writing(file);
        }
    }
}

/// Has the device begin with what was written to a file, and waits for nothing. Whether it does is for a sync to say.
#[cfg(target_os = "linux")]
fn start_writing(file: &File) {
    use std::os::fd::AsRawFd;
    #[expect(unsafe_code, reason = "no crate wraps this call")]
    // SAFETY: the descriptor is open as long as `file` is borrowed, and no memory is handed over.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE)
    };
}

/// There is no such call.
#[cfg(not(target_os = "linux"))]
fn start_writing(_: &File) {}

#[derive(Debug)]
struct RealFile {
    file: File,
    ahead: Ahead,
}

impl RealFile {
    fn of(file: File) -> RealFile {
        RealFile { file, ahead: Ahead::default() }
    }
}

impl DiskFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.ahead.wrote(&self.file, bytes.len() as u64);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.ahead = Ahead::default();
        self.file.sync_data()
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl Lock for RealLock {}
