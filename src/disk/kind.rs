//! What kind of file system a path lies on.

use std::path::Path;

/// Kinds of file systems, by what a store can rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// It is gone with the machine's memory.
    Memory,
    /// It belongs to this machine.
    Local,
    /// Other machines use the same files: what they do is seen late, and their locks perhaps not at all.
    Network,
}

/// Magic numbers of file systems, as `statfs` gives them (linux/magic.h).
const MEMORY: [i64; 2] = [
    0x0102_1994,            // tmpfs
    0x8584_58f6_u32 as i64, // ramfs
];
const NETWORK: [i64; 8] = [
    0x6969,                 // NFS
    0xff53_4d42_u32 as i64, // CIFS
    0xfe53_4d42_u32 as i64, // SMB2
    0x0bd0_0bd0,            // Lustre
    0x4750_4653,            // GPFS
    0x6573_5546,            // FUSE
    0x00c3_6400,            // Ceph
    0x0102_1997,            // 9P
];

impl FileSystem {
    /// That of a path; a local one if nobody can tell.
    pub fn of(path: &Path) -> FileSystem {
        #[allow(clippy::unnecessary_cast, reason = "the type of f_type differs between targets")]
        let magic = rustix::fs::statfs(path).ok().map(|stat| stat.f_type as i64);
        match magic {
            Some(magic) if MEMORY.contains(&magic) => FileSystem::Memory,
            Some(magic) if NETWORK.contains(&magic) => FileSystem::Network,
            _ => FileSystem::Local,
        }
    }
}
