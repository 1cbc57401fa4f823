//! Named memory: what several processes map.
//!
//! ```text
//!   stage(name, bytes)  ->  Staged      mapped, reserved, nameless: the creator writes its header
//!   Staged::publish     ->  SharedMapping      has the name now, in one step
//!   open(name)          ->  SharedMapping      found, checked, mapped
//! ```
//!
//! `create` is `stage` and `publish` in one.

use core::ptr::NonNull;
use memmap2::Advice;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

use super::directory::{FileId, Listed, Located, SegmentDir, remove, target_on};
use super::draft::Draft;
use super::hugetlb::{self, HugeFile};
use super::link::Link;
use super::settle::{ask_for_thp, huge_bytes, is_there_memory, populate, populate_first, report};
use super::{
    Backing, HUGE_BYTES, Lasting, Locking, MapError, PageKind, PagePolicy, PageReport, Problem,
};
use super::{Refusal, Refused, SegmentName, file_bytes, whole};
use crate::error::{Errno, OsError};
use crate::liveness::Identity;
use crate::raw::mmap::Range;
use crate::raw::syscall::{self, page_bytes};

/// Memory that other processes map too, unmapped on drop. It hands out its address and never a reference: what others can
/// write is read through atomics only, by the data plane. The name stays when the mapping goes; see
/// [`SharedMapping::unlink`].
#[derive(Debug)]
pub struct SharedMapping {
    range: Range,
    report: PageReport,
    backing: Backing,
    directory: SegmentDir,
    name: SegmentName,
    claim: FileId,
    /// Keeps a memfd joinable.
    _file: File,
}

/// A segment that has its memory and not yet its name: nobody can see it, and it vanishes with its creator. The place to
/// write a header in peace.
#[derive(Debug)]
pub struct Staged {
    range: Range,
    report: PageReport,
    home: Home,
    directory: SegmentDir,
    name: SegmentName,
}

#[derive(Debug)]
enum Home {
    /// A file in the segment directory.
    Here(Draft),
    /// Elsewhere.
    Huge(HugeFile),
}

/// What of a segment that is there is brought in when it is mapped.
#[derive(Clone, Copy, Debug)]
enum Pages {
    All,
    /// The one that the header is in, which also shows of which kind they are.
    First,
}

impl Pages {
    fn bring(self, range: &Range) -> Result<(), OsError> {
        match self {
            Self::All => populate(range),
            Self::First => populate_first(range),
        }
    }
}

impl SegmentDir {
    /// Makes the memory of a new segment: at least `bytes` zeroed bytes, rounded up to whole pages of the kind that it
    /// gets, all of them reserved.
    ///
    /// # Errors
    /// [`MapError::Name`], [`MapError::Zero`], [`MapError::TooLarge`]; [`Problem::Exists`] where the name is taken already;
    /// [`MapError::Pages`] where `policy` insists on pages that cannot be had; [`MapError::DirectoryTooSmall`];
    /// [`MapError::Os`].
    pub fn stage(&self, name: &str, bytes: usize, policy: PagePolicy) -> Result<Staged, MapError> {
        self.stage_lasting(name, bytes, policy, Lasting::WithMaker)
    }

    /// As [`stage`](Self::stage), for a segment that lasts as long as is said.
    ///
    /// # Errors
    /// As there.
    pub fn stage_lasting(
        &self,
        name: &str,
        bytes: usize,
        policy: PagePolicy,
        lasting: Lasting,
    ) -> Result<Staged, MapError> {
        let name = SegmentName::new(name)?;
        let path = self.file_of(&name);
        // `publish` decides; this only saves the work.
        if std::fs::symlink_metadata(&path).is_ok() {
            return Err(MapError::file(&path, Problem::Exists));
        }
        let mut refused = Vec::new();
        if policy.permits(PageKind::Huge2M)
            && let Some((file, range)) =
                hugetlb::shared(&name, whole(bytes, HUGE_BYTES)?, lasting, &mut refused)
        {
            let report = report(&range, PageKind::Huge2M, range.len(), refused);
            return Ok(Staged {
                range,
                report,
                home: Home::Huge(file),
                directory: self.clone(),
                name,
            });
        }
        if policy.permits(PageKind::Thp) {
            match self.transparent(whole(bytes, HUGE_BYTES)?) {
                Ok((draft, range, huge)) => {
                    let report = report(&range, PageKind::Thp, huge, refused);
                    return Ok(Staged {
                        range,
                        report,
                        home: Home::Here(draft),
                        directory: self.clone(),
                        name,
                    });
                }
                Err(why) => refused.push(Refused { kind: PageKind::Thp, by: "madvise", why }),
            }
        }
        if let PagePolicy::Only(kind) = policy
            && kind != PageKind::Base4K
        {
            return Err(MapError::Pages { kind, refused });
        }
        let (draft, range) = self.base(whole(bytes, page_bytes())?)?;
        let report = report(&range, PageKind::Base4K, 0, refused);
        Ok(Staged { range, report, home: Home::Here(draft), directory: self.clone(), name })
    }

    /// [`SegmentDir::stage`] and [`Staged::publish`] in one.
    ///
    /// # Errors
    /// As both.
    pub fn create(
        &self,
        name: &str,
        bytes: usize,
        policy: PagePolicy,
    ) -> Result<SharedMapping, MapError> {
        self.stage(name, bytes, policy)?.publish()
    }

    /// Maps the segment behind `name`, in the pages that its creator got, and as long as it is.
    ///
    /// # Errors
    /// [`MapError::Name`]; [`MapError::File`] with the [`Problem`]; [`MapError::Os`].
    pub fn open(&self, name: &str) -> Result<SharedMapping, MapError> {
        self.map(name, Pages::All)
    }

    /// As [`open`](Self::open), to look at a little of it: a page comes in when it is touched, and none is locked. For tools, which
    /// would else spend seconds on a segment of many gigabytes; a first touch may fault.
    ///
    /// # Errors
    /// As there.
    pub fn look(&self, name: &str) -> Result<SharedMapping, MapError> {
        self.map(name, Pages::First)
    }

    fn map(&self, name: &str, pages: Pages) -> Result<SharedMapping, MapError> {
        let name = SegmentName::new(name)?;
        let Located { file, bytes, backing, claim } = self.locate(&name)?;
        let too_large = || MapError::file(&self.file_of(&name), Problem::Size { bytes });
        let len = usize::try_from(bytes).map_err(|_large| too_large())?;
        let (range, page, huge) = match backing {
            Backing::Hugetlbfs(_) | Backing::Memfd { .. } => {
                let range = Range::shared(&file, len).map_err(|e| OsError::new("mmap", e))?;
                pages.bring(&range).map_err(|e| self.cut_off(&name, &file, e))?;
                (range, PageKind::Huge2M, len)
            }
            Backing::File(_) | Backing::Anonymous => {
                let mapped = if len.is_multiple_of(HUGE_BYTES) {
                    Range::shared_aligned(file.as_fd(), len, HUGE_BYTES)
                } else {
                    Range::shared(&file, len)
                };
                let range = mapped.map_err(|e| OsError::new("mmap", e))?;
                pages.bring(&range).map_err(|e| self.cut_off(&name, &file, e))?;
                // Where smaps cannot be read, nothing is claimed.
                let huge = huge_bytes(&range).unwrap_or(0);
                (range, if huge > 0 { PageKind::Thp } else { PageKind::Base4K }, huge)
            }
        };
        let report = match pages {
            Pages::All => report(&range, page, huge, Vec::new()),
            Pages::First => PageReport {
                page,
                len,
                huge_bytes: huge,
                locking: Locking::NotAsked,
                refused: Vec::new(),
            },
        };
        Ok(SharedMapping {
            range,
            report,
            backing,
            directory: self.clone(),
            name,
            claim,
            _file: file,
        })
    }

    /// What a refusal to bring in the pages of a file means: EFAULT is a file that was cut off since it was looked at.
    fn cut_off(&self, name: &SegmentName, file: &File, error: OsError) -> MapError {
        match file.metadata() {
            Ok(now) if error.errno().number() == libc::EFAULT => {
                MapError::file(&self.file_of(name), Problem::Size { bytes: now.len() })
            }
            Ok(_) | Err(_) => error.into(),
        }
    }

    /// A file here, in transparent huge pages.
    fn transparent(&self, len: usize) -> Result<(Draft, Range, usize), Refusal> {
        let draft = Draft::new(self.path()).map_err(Refusal::Os)?;
        self.reserve(&draft, len).map_err(Refusal::Os)?;
        let mapped = Range::shared_aligned(draft.file().as_fd(), len, HUGE_BYTES);
        let range = mapped.map_err(|e| Refusal::Os(OsError::new("mmap", e)))?;
        let huge = ask_for_thp(&range)?;
        Ok((draft, range, huge))
    }

    /// A file here, in pages of the base size.
    fn base(&self, len: usize) -> Result<(Draft, Range), MapError> {
        let draft = Draft::new(self.path())?;
        self.reserve(&draft, len).map_err(|e| match e.errno().number() {
            libc::ENOSPC => MapError::DirectoryTooSmall {
                directory: self.path().to_path_buf(),
                needed: file_bytes(len),
                free: self.free_bytes().unwrap_or(0),
                mount: self.mount(),
            },
            _ => e.into(),
        })?;
        let range = Range::shared(draft.file(), len).map_err(|e| OsError::new("mmap", e))?;
        // Refused by kernels without transparent huge pages, which give base pages anyway.
        let _without_thp = range.advise(Advice::NoHugePage);
        populate(&range)?;
        Ok((draft, range))
    }

    /// Takes all the memory at once, so that no later access finds none. Looks first: the kernel would hand out all that
    /// is left before it says that this is not enough.
    fn reserve(&self, draft: &Draft, len: usize) -> Result<(), OsError> {
        let needed = file_bytes(len);
        let enough = self.free_bytes().is_none_or(|free| free >= needed);
        let is_memory = syscall::file_system(self.path()).is_ok_and(|it| it.is_tmpfs());
        if enough && is_memory {
            is_there_memory(len)?;
        }
        let taken = if enough {
            syscall::reserve(draft.file().as_fd(), needed)
        } else {
            Err(Errno::new(libc::ENOSPC))
        };
        taken.map_err(|e| OsError::at("fallocate in", self.path(), e))
    }

    /// Bytes left on the folder's file system; none where it has no limit, or does not tell.
    fn free_bytes(&self) -> Option<u64> {
        syscall::file_system(self.path()).ok()?.free_bytes()
    }
}

impl Staged {
    /// The first byte. Valid for reads and writes of [`Staged::len`] bytes; the address stays the same when it is
    /// published.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.range.as_ptr()
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.range.len()
    }

    /// Never: a segment has at least one page.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.range.len() == 0
    }

    /// The pages that it got.
    #[must_use]
    pub const fn page(&self) -> PageKind {
        self.report.page()
    }

    /// Gives the segment its name. From then on others can join.
    ///
    /// # Errors
    /// [`Problem::Exists`] where somebody was faster; [`MapError::Os`].
    pub fn publish(self) -> Result<SharedMapping, MapError> {
        let Self { range, report, home, directory, name } = self;
        let path = directory.file_of(&name);
        let (file, claim, backing) = match home {
            Home::Here(draft) => {
                let claim = id_of(draft.file())?;
                (publish(draft, &directory, &name)?, claim, Backing::File(path))
            }
            Home::Huge(HugeFile::OnMount(draft, mount)) => {
                let target = target_on(&mount, &name, id_of(draft.file())?);
                // The name first: were the memory first, a creator killed in between would leave huge pages behind that
                // nobody knows of.
                let claim = publish_link(&Link::Hugetlbfs(target.clone()), &directory, &name)?;
                match draft.publish(&target) {
                    Ok(file) => (file, claim, Backing::Hugetlbfs(target)),
                    Err(e) => {
                        remove(&path, true)?;
                        return Err(e.into());
                    }
                }
            }
            Home::Huge(HugeFile::InMemfd(file)) => {
                let metadata = file.metadata().map_err(|e| OsError::io("fstat", &path, &e))?;
                let creator = Identity::mine()?;
                let fd = u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX);
                let link = Link::Memfd { creator, fd, inode: metadata.ino() };
                let claim = publish_link(&link, &directory, &name)?;
                (file, claim, Backing::Memfd { pid: creator.pid })
            }
        };
        Ok(SharedMapping { range, report, backing, directory, name, claim, _file: file })
    }
}

fn id_of(file: &File) -> Result<FileId, MapError> {
    let metadata = file.metadata().map_err(|e| OsError::new("fstat", Errno::from_io(&e)))?;
    Ok(FileId::of(&metadata))
}

fn publish(draft: Draft, directory: &SegmentDir, name: &SegmentName) -> Result<File, MapError> {
    let path = directory.file_of(name);
    draft.publish(&path).map_err(|e| match e.errno().number() {
        libc::EEXIST => MapError::file(&path, Problem::Exists),
        _ => e.into(),
    })
}

/// Takes the name with a text that says where the memory is (or is about to be).
fn publish_link(
    link: &Link,
    directory: &SegmentDir,
    name: &SegmentName,
) -> Result<FileId, MapError> {
    let path = directory.file_of(name);
    let text = link.text().ok_or_else(|| MapError::file(&path, Problem::Link { field: "path" }))?;
    let draft = Draft::new(directory.path())?;
    let mut file = draft.file();
    file.write_all(text.as_bytes()).map_err(|e| OsError::io("write", &path, &e))?;
    let claim = id_of(file)?;
    publish(draft, directory, name)?;
    Ok(claim)
}

impl SharedMapping {
    /// The memory as the data plane sees it: cache lines of atomics.
    #[must_use]
    pub fn lines(&self) -> &[spinwire_dataplane::raw::line::Line] {
        crate::raw::view::shared_lines(self)
    }

    /// [`SegmentDir::create`] in the folder of the environment.
    ///
    /// # Errors
    /// As there.
    pub fn create(name: &str, bytes: usize, policy: PagePolicy) -> Result<Self, MapError> {
        SegmentDir::from_env().create(name, bytes, policy)
    }

    /// [`SegmentDir::stage`] in the folder of the environment.
    ///
    /// # Errors
    /// As there.
    pub fn stage(name: &str, bytes: usize, policy: PagePolicy) -> Result<Staged, MapError> {
        SegmentDir::from_env().stage(name, bytes, policy)
    }

    /// [`SegmentDir::open`] in the folder of the environment.
    ///
    /// # Errors
    /// As there.
    pub fn open(name: &str) -> Result<Self, MapError> {
        SegmentDir::from_env().open(name)
    }

    /// [`SegmentDir::look`] in the folder of the environment.
    ///
    /// # Errors
    /// As there.
    pub fn look(name: &str) -> Result<Self, MapError> {
        SegmentDir::from_env().look(name)
    }

    /// The first byte. Valid for atomic reads and writes of [`SharedMapping::len`] bytes for as long as the mapping lives.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.range.as_ptr()
    }

    /// Bytes: as many as the file has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.range.len()
    }

    /// Never: a segment has at least one page.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.range.len() == 0
    }

    /// The pages that this process has mapped.
    #[must_use]
    pub const fn page(&self) -> PageKind {
        self.report.page()
    }

    /// What it got and what it did not.
    #[must_use]
    pub const fn report(&self) -> &PageReport {
        &self.report
    }

    /// Where the memory lies.
    #[must_use]
    pub const fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Whether its name still stands for this very segment.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.directory.still_names(&self.name, self.claim)
    }

    /// The folder that its name is in.
    #[must_use]
    pub const fn directory(&self) -> &SegmentDir {
        &self.directory
    }

    /// Removes the name if it still stands for this very segment: true if so, false if the name is gone or stands for
    /// another segment by now. The mapping stays.
    ///
    /// # Errors
    /// [`MapError::Os`].
    pub fn unlink(&self) -> Result<bool, MapError> {
        self.directory.unlink_exactly(&self.name, self.claim)
    }

    /// The same, if `may` says so: nobody comes in by [`while_named`](Self::while_named) between that and the removal.
    pub(crate) fn unlink_if(&self, may: impl FnOnce() -> bool) -> Result<bool, MapError> {
        self.directory.unlink_if((&self.name, self.claim), may)
    }

    /// Comes in while the name is there; [`Problem::Missing`] where it is gone.
    pub(crate) fn while_named<R>(&self, enter: impl FnOnce() -> R) -> Result<R, MapError> {
        self.directory.while_named((&self.name, self.claim), enter)
    }
}

/// [`SegmentDir::unlink`] in the folder of the environment.
///
/// # Errors
/// As there.
pub fn unlink(name: &str) -> Result<(), MapError> {
    SegmentDir::from_env().unlink(name)
}

/// [`SegmentDir::list`] of the folder of the environment.
///
/// # Errors
/// As there.
pub fn list() -> Result<Vec<Listed>, MapError> {
    SegmentDir::from_env().list()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_tree::Tree;

    #[test]
    fn memory_is_taken_before_it_is_touched() {
        let tree = Tree::new();
        let dir = SegmentDir::new(tree.root());
        let draft = Draft::new(dir.path()).unwrap();
        dir.reserve(&draft, 64 << 10).unwrap();
        let metadata = draft.file().metadata().unwrap();
        assert_eq!(metadata.len(), 64 << 10);
        assert!(metadata.blocks() * 512 >= 64 << 10, "a size alone is not memory");
    }

    #[test]
    fn a_file_that_was_cut_off_before_its_pages_came_in_is_an_answer() {
        let tree = Tree::new();
        let dir = SegmentDir::new(tree.root());
        let draft = Draft::new(dir.path()).unwrap();
        dir.reserve(&draft, page_bytes()).unwrap();
        // As one that had two pages when it was looked at.
        let range = Range::shared(draft.file(), 2 * page_bytes()).unwrap();
        let e = populate(&range).unwrap_err();
        let name = SegmentName::new("seg").unwrap();
        let bytes = file_bytes(page_bytes());
        let told = dir.cut_off(&name, draft.file(), e);
        assert_eq!(told.problem(), Some(Problem::Size { bytes }), "{told}");
    }

    #[test]
    fn a_name_that_another_removes_and_gives_away_meanwhile_is_left_to_its_new_owner() {
        let tree = Tree::new();
        let dir = SegmentDir::new(tree.root());
        let base = PagePolicy::Only(PageKind::Base4K);
        let old = dir.create("seg", 1, base).unwrap();
        let name = SegmentName::new("seg").unwrap();
        let turn = dir.take_turn(&name).unwrap();
        let (new, removed) = std::thread::scope(|scope| {
            let remover = scope.spawn(|| old.unlink());
            // Long enough for it to look at the name, which is still that of the old one.
            std::thread::sleep(core::time::Duration::from_millis(50));
            assert!(old.is_named(), "nobody removes it out of turn");
            dir.unlink_in_turn(&name).unwrap();
            let new = dir.create("seg", 1, base).unwrap();
            drop(turn);
            (new, remover.join().unwrap())
        });
        assert_eq!(removed, Ok(false), "it was gone");
        assert!(new.is_named());
    }

    #[test]
    fn who_comes_in_by_a_name_is_seen_by_who_removes_it_or_finds_it_gone() {
        let tree = Tree::new();
        let dir = SegmentDir::new(tree.root());
        let one = dir.create("seg", 1, PagePolicy::Only(PageKind::Base4K)).unwrap();
        let other = dir.open("seg").unwrap();
        let is_free = || File::open(tree.root().join("spinwire.seg")).unwrap().try_lock().is_ok();
        assert_eq!(other.while_named(is_free), Ok(false), "nobody has a turn beside it");
        assert_eq!(one.unlink_if(is_free), Ok(false), "nor beside this");
        assert!(is_free() && other.is_named());
        assert_eq!(one.unlink_if(|| true), Ok(true));
        let late = other.while_named(|| panic!("in a segment that nobody finds"));
        assert_eq!(late.map_err(|e| e.problem()), Err(Some(Problem::Missing)));
    }

    #[test]
    fn what_cannot_fit_is_refused_before_anything_is_taken() {
        let tree = Tree::new();
        let dir = SegmentDir::new(tree.root());
        let draft = Draft::new(dir.path()).unwrap();
        let e = dir.reserve(&draft, 1 << 50).unwrap_err();
        assert_eq!(e.errno().number(), libc::ENOSPC);
        assert_eq!(draft.file().metadata().unwrap().blocks(), 0);
    }
}
