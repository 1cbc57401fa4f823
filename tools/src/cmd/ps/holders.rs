//! Who has a file mapped, as the kernel tells: `/proc/PID/maps`, proc_pid_maps(5).
//!
//! The answer of last resort. A segment of this version says by its process table who is in it; one of another version,
//! or a broken one, does not, and may be in use all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;

use spinwire_hostshim::mem::SharedMapping;

/// A mapped file: device and inode, as `/proc/PID/maps` prints them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FileKey {
    device: String,
    inode: u64,
}

impl FileKey {
    /// A file that is not mapped, by its metadata. On file systems with devices of their own for each subvolume, which a
    /// tmpfs is not, this is not what the maps show.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self::new(metadata.dev(), metadata.ino())
    }

    /// The inode of that number on that device.
    pub(crate) fn new(device: u64, inode: u64) -> Self {
        let (major, minor) = (libc::major(device), libc::minor(device));
        Self { device: format!("{major:02x}:{minor:02x}"), inode }
    }

    /// What lies behind a mapping of this process, wherever that is.
    pub(crate) fn behind(mapping: &SharedMapping) -> Option<Self> {
        let address = u64::try_from(mapping.as_ptr().addr().get()).ok()?;
        let maps = fs::read("/proc/self/maps").ok()?;
        let maps = String::from_utf8_lossy(&maps);
        maps.lines()
            .filter_map(Row::parse)
            .find(|row| row.from <= address && address < row.to)
            .map(|row| row.key)
    }
}

/// A line of a maps file.
struct Row {
    from: u64,
    to: u64,
    key: FileKey,
}

impl Row {
    /// `7f12-7f13 rw-s 00000000 00:1a 1234 /dev/shm/..`; none for memory without a file.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let (_rights, _offset, device) = (words.next()?, words.next()?, words.next()?);
        let inode = words.next()?.parse().ok().filter(|inode| *inode != 0)?;
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        Some(Self {
            from: hex(from)?,
            to: hex(to)?,
            key: FileKey { device: device.to_owned(), inode },
        })
    }
}

/// All processes that can be looked into, by what they have mapped.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    by_file: BTreeMap<FileKey, BTreeSet<u32>>,
}

impl Holders {
    /// Asks the kernel about all processes but this one. Those of other users stay hidden, and cannot have mapped a file
    /// that belongs to this user alone, root excepted.
    pub(crate) fn look() -> Self {
        let mut found = Self::default();
        let Ok(entries) = fs::read_dir("/proc") else {
            return found;
        };
        let pids =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.filter(|pid| *pid != std::process::id()) {
            // Gone meanwhile, or somebody else's.
            let Ok(maps) = fs::read(format!("/proc/{pid}/maps")) else {
                continue;
            };
            // A path that is no text must not hide the others.
            for row in String::from_utf8_lossy(&maps).lines().filter_map(Row::parse) {
                found.by_file.entry(row.key).or_default().insert(pid);
            }
        }
        found
    }

    /// The processes that have that file mapped, by rising number.
    pub(crate) fn of(&self, key: &FileKey) -> impl Iterator<Item = u32> + use<'_> {
        self.by_file.get(key).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let row = Row::parse(
            "7f12a000-7f12b000 rw-s 00000000 00:1a 1234   /dev/shm/spinwire.x (deleted)",
        )
        .unwrap();
        assert_eq!((row.from, row.to), (0x7f12_a000, 0x7f12_b000));
        assert_eq!(row.key, FileKey { device: "00:1a".to_owned(), inode: 1234 });
        for none in [
            "",
            "7f12a000-7f12b000 rw-p 00000000 00:00 0",
            "x-y rw-p 0 00:00 5",
            "7f12 rw-p 0 0:0 5",
        ] {
            assert!(Row::parse(none).is_none(), "{none}");
        }
    }

    #[test]
    fn a_mapped_file_is_found_by_its_metadata_and_by_its_address() {
        // This test's own program is mapped, but processes do not look at themselves.
        let exe = fs::metadata("/proc/self/exe").unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let inodes: Vec<_> = maps.lines().filter_map(Row::parse).map(|row| row.key.inode).collect();
        assert!(inodes.contains(&FileKey::of(&exe).inode));
        assert!(!Holders::look().of(&FileKey::of(&exe)).any(|pid| pid == std::process::id()));
    }
}
