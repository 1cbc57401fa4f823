//! The places that give huge pages of the kernel's pool: hugetlbfs mounts and memfds. Source: Linux
//! Documentation/admin-guide/mm/hugetlbpage.rst, memfd_create(2).

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::settle::populate;
use super::{HUGE_BYTES, Lasting, Refusal, Refused, file_bytes};
use super::{PageKind, SegmentName};
use crate::error::{Errno, OsError};
use crate::raw::mmap::Range;
use crate::raw::syscall;

/// A file of huge pages.
#[derive(Debug)]
pub(super) enum HugeFile {
    /// On that mount, without a name so far.
    OnMount(Draft, PathBuf),
    /// In this process's hands.
    InMemfd(File),
}

/// `len` bytes (whole huge pages) in a nameless file on a mounted hugetlbfs, or else in a memfd, if that lasts long enough.
pub(super) fn shared(
    name: &SegmentName,
    len: usize,
    lasting: Lasting,
    refused: &mut Vec<Refused>,
) -> Option<(HugeFile, Range)> {
    match on_hugetlbfs(len) {
        Ok(found) => return Some(found),
        Err(why) => refused.push(Refused { kind: PageKind::Huge2M, by: "hugetlbfs", why }),
    }
    if lasting == Lasting::WithName {
        return None;
    }
    match in_memfd(name, len) {
        Ok(found) => Some(found),
        Err(why) => {
            refused.push(Refused { kind: PageKind::Huge2M, by: "memfd", why });
            None
        }
    }
}

/// In the first mount that has room and lets us.
fn on_hugetlbfs(len: usize) -> Result<(HugeFile, Range), Refusal> {
    let mut why = Refusal::NoMount;
    for mount in mounts(Path::new("/proc/self/mounts")).map_err(Refusal::Os)? {
        if !has_huge_blocks(&mount) {
            continue;
        }
        let made = Draft::new(&mount).map_err(Refusal::Os);
        match made.and_then(|draft| Ok((fill(draft.file(), len)?, draft))) {
            Ok((range, draft)) => return Ok((HugeFile::OnMount(draft, mount), range)),
            Err(e) => why = e,
        }
    }
    Err(why)
}

fn in_memfd(name: &SegmentName, len: usize) -> Result<(HugeFile, Range), Refusal> {
    let flags = libc::MFD_HUGETLB | libc::MFD_HUGE_2MB | libc::MFD_ALLOW_SEALING;
    let refused = |operation| move |e| refusal(len, OsError::new(operation, e));
    let fd = syscall::memfd(&format!("spinwire.{name}"), flags)
        .map_err(refused("memfd_create(MFD_HUGETLB)"))?;
    let file = File::from(fd);
    // A memfd is born with mode 0777, and reachable through /proc by whoever the mode lets in.
    let private = fs::Permissions::from_mode(0o600);
    let io = |operation| {
        move |e: std::io::Error| Refusal::Os(OsError::new(operation, Errno::from_io(&e)))
    };
    file.set_permissions(private).map_err(io("fchmod"))?;
    let range = fill(&file, len)?;
    // Nobody who joins can cut it short under the others.
    syscall::seal_size(file.as_fd()).map_err(refused("fcntl(F_ADD_SEALS)"))?;
    Ok((HugeFile::InMemfd(file), range))
}

/// Takes the pages out of the pool and maps them.
fn fill(file: &File, len: usize) -> Result<Range, Refusal> {
    let io = |operation, e| refusal(len, OsError::new(operation, e));
    syscall::reserve(file.as_fd(), file_bytes(len)).map_err(|e| io("fallocate", e))?;
    let range = Range::shared(file, len).map_err(|e| io("mmap", e))?;
    populate(&range).map_err(|e| refusal(len, e))?;
    Ok(range)
}

/// Tells an empty pool apart from the other reasons why `len` bytes of huge pages were refused.
pub(super) fn refusal(len: usize, error: OsError) -> Refusal {
    let needed = len.div_ceil(HUGE_BYTES);
    let free = free_pages(Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB"));
    let lacking = free.is_none_or(|free| u64::try_from(needed).is_ok_and(|needed| free < needed));
    if lacking { Refusal::PoolTooSmall { needed, free } } else { Refusal::Os(error) }
}

/// Pages of the pool that are neither used nor promised to somebody.
fn free_pages(pool: &Path) -> Option<u64> {
    let number = |file: &str| fs::read_to_string(pool.join(file)).ok()?.trim().parse::<u64>().ok();
    Some(number("free_hugepages")?.saturating_sub(number("resv_hugepages").unwrap_or(0)))
}

/// Is `path` on a hugetlbfs with pages of 2 MiB?
pub(super) fn has_huge_blocks(path: &Path) -> bool {
    let huge = file_bytes(HUGE_BYTES);
    syscall::file_system(path).is_ok_and(|fs| fs.is_hugetlbfs() && fs.block_bytes == huge)
}

/// Where file systems of type hugetlbfs are mounted, in the order of mounting: proc_pid_mounts(5).
pub(super) fn mounts(table: &Path) -> Result<Vec<PathBuf>, OsError> {
    let text = fs::read_to_string(table).map_err(|e| OsError::io("read", table, &e))?;
    let mounted = text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (_source, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "hugetlbfs").then(|| PathBuf::from(unescape(point)))
    });
    Ok(mounted.collect())
}

/// Blanks, tabs, line ends and backslashes appear as octal numbers, `\040`: getmntent(3).
fn unescape(field: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let mut plain = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(c) = rest.chars().next() {
        let (text, used) = codes.iter().find(|(code, _)| rest.starts_with(code)).map_or(
            (rest.get(..c.len_utf8()).unwrap_or_default(), c.len_utf8()),
            |(code, text)| (*text, code.len()),
        );
        plain.push_str(text);
        rest = rest.get(used..).unwrap_or_default();
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_tree::Tree;

    #[test]
    fn finds_hugetlbfs_among_the_mounts() {
        let tree = Tree::new();
        tree.file(
            "mounts",
            "tmpfs /dev/shm tmpfs rw 0 0\n\
             hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n\
             none /mnt/my\\040huge\\134pages hugetlbfs rw 0 0\n\
             hugetlbfs /x ext4 rw 0 0\n\
             short line\n\n",
        );
        let found = mounts(&tree.root().join("mounts")).unwrap();
        assert_eq!(found, [Path::new("/dev/hugepages"), Path::new("/mnt/my huge\\pages")]);
        assert!(mounts(&tree.root().join("absent")).is_err());
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(unescape("\\134040"), "\\040");
        assert_eq!(unescape("/é\\040\\"), "/é \\");
    }

    #[test]
    fn promised_pages_are_not_free() {
        let tree = Tree::new();
        assert_eq!(free_pages(tree.root()), None);
        tree.file("free_hugepages", "10\n");
        assert_eq!(free_pages(tree.root()), Some(10));
        tree.file("resv_hugepages", "4\n");
        assert_eq!(free_pages(tree.root()), Some(6));
        tree.file("resv_hugepages", "40\n");
        assert_eq!(free_pages(tree.root()), Some(0));
    }

    #[test]
    fn ordinary_folders_have_no_huge_blocks() {
        assert!(!has_huge_blocks(Path::new("/")) && !has_huge_blocks(Path::new("/absent")));
    }
}
