//! A file that has no name yet.
//!
//! A segment gets its size and its pages first and its name last, in one step that fails if the name is taken. So nobody
//! can find it half made, and a creator that dies on the way leaves nothing behind.
//!
//! ```text
//!   open(O_TMPFILE) -> fchmod 0600 -> fallocate, mmap, .. -> linkat(name)      O_EXCL in effect: EEXIST if taken
//! ```
//!
//! File systems without O_TMPFILE get a hidden name in between, which a killed creator may leave behind.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::directory::refused_by;
use crate::error::{Errno, OsError};
use crate::raw::syscall;

/// A private file (mode 0600) on its way to a name. Dropped before that, it vanishes.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    hidden: Option<PathBuf>,
}

impl Draft {
    /// In `folder`, whose file system it will live on.
    pub(super) fn new(folder: &Path) -> Result<Self, OsError> {
        let refused = |e: io::Error| refused_by("create a file in", folder, &e);
        let nameless = writable().custom_flags(libc::O_TMPFILE | libc::O_NOFOLLOW).open(folder);
        let draft = match nameless {
            Ok(file) => Self { file, hidden: None },
            // EISDIR: a kernel that has never heard of it.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
                Self::hidden(folder).map_err(refused)?
            }
            Err(e) => return Err(refused(e)),
        };
        // The umask may have taken bits away.
        draft.file.set_permissions(Permissions::from_mode(0o600)).map_err(refused)?;
        Ok(draft)
    }

    fn hidden(folder: &Path) -> io::Result<Self> {
        let process = std::process::id();
        let mut attempt = 0_u32;
        loop {
            let path = folder.join(format!(".spinwire-{process}-{attempt}"));
            match writable().create_new(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
                Ok(file) => {
                    return Ok(Self { file, hidden: Some(path) });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempt < 10_000 => {
                    attempt += 1
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The file.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Gives it the name `path`, in the folder that it was made in. EEXIST where anything has that name, be it a symlink
    /// that leads nowhere.
    pub(super) fn publish(self, path: &Path) -> Result<File, OsError> {
        // Before the name is there, because nothing may fail after.
        let file = self.file.try_clone().map_err(|e| OsError::io("dup", path, &e))?;
        let linked = match &self.hidden {
            None => syscall::link(self.file.as_fd(), path),
            Some(hidden) => fs::hard_link(hidden, path).map_err(|e| Errno::from_io(&e)),
        };
        linked.map_err(|e| OsError::at("link", path, e))?;
        Ok(file)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // Nothing can be done about a hidden name that will not go, and it is in nobody's way.
            let _leftover_is_harmless = fs::remove_file(hidden);
        }
    }
}

fn writable() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_tree::Tree;
    use std::os::unix::fs::MetadataExt;

    fn both(folder: &Path) -> [Draft; 2] {
        [Draft::new(folder).unwrap(), Draft::hidden(folder).unwrap()]
    }

    fn entries(tree: &Tree) -> usize {
        fs::read_dir(tree.root()).unwrap().count()
    }

    #[test]
    fn a_dropped_draft_leaves_nothing() {
        let tree = Tree::new();
        drop(both(tree.root()));
        assert_eq!(entries(&tree), 0);
    }

    #[test]
    fn a_published_one_is_the_same_file_and_private() {
        for which in 0..2 {
            let tree = Tree::new();
            let draft = both(tree.root()).into_iter().nth(which).unwrap();
            let inode = draft.file().metadata().unwrap().ino();
            let path = tree.root().join("a");
            let file = draft.publish(&path).unwrap();
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!((found.ino(), file.metadata().unwrap().ino()), (inode, inode));
            assert_eq!(found.mode() & 0o7777, 0o600);
            assert_eq!(entries(&tree), 1);
        }
    }

    #[test]
    fn a_taken_name_is_refused_whatever_took_it() {
        for which in 0..2 {
            let tree = Tree::new();
            tree.file("file", "x");
            tree.file("folder/x", "");
            std::os::unix::fs::symlink("nowhere", tree.root().join("symlink")).unwrap();
            for name in ["file", "folder", "symlink"] {
                let draft = both(tree.root()).into_iter().nth(which).unwrap();
                let e = draft.publish(&tree.root().join(name)).unwrap_err();
                assert_eq!(e.errno().number(), libc::EEXIST, "{name}");
            }
            assert_eq!(entries(&tree), 3);
            assert_eq!(fs::read(tree.root().join("file")).unwrap(), b"x");
        }
    }

    #[test]
    fn an_absent_folder_is_named() {
        let e = Draft::new(Path::new("/absent/folder")).unwrap_err();
        assert!(e.to_string().contains("/absent/folder"), "{e}");
    }
}
