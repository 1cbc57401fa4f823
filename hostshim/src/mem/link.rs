//! Names whose memory lies elsewhere.
//!
//! The segment directory decides who has a name. A segment whose memory is not a file there leaves a small text in its
//! place, which says where the memory is:
//!
//! ```text
//!   spinwire-link 1                         spinwire-link 1
//!   kind hugetlbfs                          kind memfd
//!   path /dev/hugepages/spinwire.q.4711     pid 17
//!                                           start_time 99
//!                                           boot_id 000102...0f
//!                                           fd 5
//!                                           inode 1234
//! ```
//!
//! It is shorter than a page, and a segment never is, so the two cannot be confused. It was written by the same user
//! (the caller has checked owner and mode), and is nevertheless believed only as far as the file that it leads to passes
//! the same checks.

use core::fmt::Write;
use std::path::PathBuf;

use crate::liveness::Identity;

/// Longest text that is read.
pub(super) const BYTES_MAX: u64 = 4095;
const FIRST_LINE: &str = "spinwire-link 1";

/// Where the memory of a segment lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Link {
    /// In that file on a hugetlbfs.
    Hugetlbfs(PathBuf),
    /// In a memfd that its creator holds.
    Memfd {
        creator: Identity,
        /// The creator's descriptor.
        fd: u32,
        /// The memfd's inode: descriptors are given away again, inodes of one boot are not.
        inode: u64,
    },
}

impl Link {
    /// The text. None for a path that cannot be written as one line of text.
    pub(super) fn text(&self) -> Option<String> {
        let mut text = format!("{FIRST_LINE}\n");
        match self {
            Self::Hugetlbfs(path) => {
                let path = path.to_str().filter(|p| !p.contains('\n'))?;
                write!(text, "kind hugetlbfs\npath {path}\n").ok()?;
            }
            Self::Memfd { creator, fd, inode } => {
                let Identity { pid, start_time, boot_id } = creator;
                write!(text, "kind memfd\npid {pid}\nstart_time {start_time}\nboot_id ").ok()?;
                boot_id.iter().try_for_each(|byte| write!(text, "{byte:02x}")).ok()?;
                write!(text, "\nfd {fd}\ninode {inode}\n").ok()?;
            }
        }
        u64::try_from(text.len()).is_ok_and(|n| n <= BYTES_MAX).then_some(text)
    }

    /// Reads the text; the error is the field that is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err("first line");
        }
        let mut field = |key: &'static str| {
            let value = lines.next().and_then(|line| line.strip_prefix(key)?.strip_prefix(' '));
            value.ok_or(key)
        };
        let link = match field("kind")? {
            "hugetlbfs" => Self::Hugetlbfs(PathBuf::from(field("path")?)),
            "memfd" => {
                let pid = number(field("pid")?).ok_or("pid")?;
                let start_time = number(field("start_time")?).ok_or("start_time")?;
                let boot_id = boot(field("boot_id")?).ok_or("boot_id")?;
                let fd = number(field("fd")?).ok_or("fd")?;
                let inode = number(field("inode")?).ok_or("inode")?;
                Self::Memfd { creator: Identity { pid, start_time, boot_id }, fd, inode }
            }
            _ => return Err("kind"),
        };
        // A cut or lengthened text is not one that was written by `text`.
        if link.text().as_deref() == Some(text) { Ok(link) } else { Err("end") }
    }
}

fn number<T: core::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn boot(text: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(text, 16).ok()?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd() -> Link {
        let mut boot_id = [7; 16];
        boot_id[0] = 0;
        Link::Memfd { creator: Identity { pid: 17, start_time: 99, boot_id }, fd: 5, inode: 1234 }
    }

    #[test]
    fn both_kinds_survive_the_trip() {
        for link in [memfd(), Link::Hugetlbfs(PathBuf::from("/dev/huge pages/spinwire.q.4711"))] {
            assert_eq!(Link::parse(&link.text().unwrap()), Ok(link));
        }
    }

    #[test]
    fn every_cut_is_an_error() {
        for link in [memfd(), Link::Hugetlbfs(PathBuf::from("/h/x"))] {
            let text = link.text().unwrap();
            for cut in 0..text.len() {
                assert!(Link::parse(&text[..cut]).is_err(), "{cut}");
            }
            assert_eq!(Link::parse(&format!("{text}more")), Err("end"));
        }
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        let good = memfd().text().unwrap();
        for (from, to, field) in [
            ("link 1", "link 2", "first line"),
            ("kind memfd", "kind tape", "kind"),
            ("pid 17", "pid -17", "pid"),
            ("pid 17", "pid +17", "end"),
            ("start_time 99", "start_time", "start_time"),
            ("boot_id 00", "boot_id zz", "boot_id"),
            ("fd 5", "fd 99999999999", "fd"),
            ("inode 1234", "mode 1234", "inode"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            assert_eq!(Link::parse(&bad), Err(field), "{bad}");
        }
    }

    #[test]
    fn a_path_that_is_no_line_is_refused() {
        assert_eq!(Link::Hugetlbfs(PathBuf::from("/a\nb")).text(), None);
        assert_eq!(Link::Hugetlbfs(PathBuf::from("x".repeat(5000))).text(), None);
    }
}
