//! Folders full of made-up files, for tests: a `/proc` and `/sys` of machines that are not at hand.

use std::fs;
use std::path::{Path, PathBuf};

/// A temporary folder, removed on drop.
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let process = std::process::id();
        let candidates =
            (0_u32..).map(|n| std::env::temp_dir().join(format!("spinwire-tree-{process}-{n}")));
        let root = candidates.into_iter().find(|path| fs::create_dir(path).is_ok());
        Self { root: root.unwrap() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a file and the folders above it.
    pub(crate) fn file(&self, path: &str, contents: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _leftover_is_harmless = fs::remove_dir_all(&self.root);
    }
}

impl Tree {
    /// A machine of these files, with an empty `/dev/shm` without limit, transparent huge pages and a usable io_uring.
    pub(crate) fn probe(&self) -> crate::preflight::Probe {
        use crate::preflight::{Facts, Probe, Room};
        let facts = Facts {
            segment_dir: PathBuf::from("/dev/shm"),
            segment_room: Ok(Room { total: None, free: None }),
            transparent_page: true,
            io_uring: Ok(crate::uring::Features::everything()),
        };
        Probe { root: self.root.clone(), facts }
    }
}
