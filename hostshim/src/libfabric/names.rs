//! Who is where: addresses as libfabric gives them, and how two ends tell each other theirs.
//!
//! An address of libfabric is bytes that only its provider understands. It comes from the port ([`OfiPort::address`](super::OfiPort::address))
//! and has to get to the others by another way: a file that both see, a connection of TCP, a command line.

use core::cell::RefCell;
use core::fmt::{self, Write as _};
use core::str::FromStr;
use core::time::Duration;
use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::path::Path;
use std::time::Instant;

use spinwire_dataplane::id::Name;

use super::error::OfiError;

/// Bytes of a line that says who is where, at most.
const LINE_BYTES_MAX: u64 = 2048;

/// An address of a provider: its format (`enum` of `fi_getinfo(3)`) and its bytes. As a text `FORMAT:HEX`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OfiAddress {
    format: u32,
    bytes: Box<[u8]>,
}

impl OfiAddress {
    pub(super) fn new(format: u32, bytes: Vec<u8>) -> Self {
        Self { format, bytes: bytes.into_boxed_slice() }
    }

    /// The format: two endpoints of different formats never reach each other.
    #[must_use]
    pub const fn format(&self) -> u32 {
        self.format
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Display for OfiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.format)?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for OfiAddress {
    type Err = OfiError;

    fn from_str(text: &str) -> Result<Self, OfiError> {
        let wrong = || OfiError::Address { given: text.to_owned() };
        let (format, hex) = text.split_once(':').ok_or_else(wrong)?;
        let format = format.parse().map_err(|_no_number| wrong())?;
        let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hex.is_empty() || !is_hex || !hex.len().is_multiple_of(2) {
            return Err(wrong());
        }
        let digits = (0..hex.len()).step_by(2).map(|at| hex.get(at..at + 2).unwrap_or_default());
        let bytes: Result<Vec<u8>, _> = digits.map(|two| u8::from_str_radix(two, 16)).collect();
        Ok(Self::new(format, bytes.map_err(|_no_digits| wrong())?))
    }
}

/// Which name is where. Shared by the ports of a thread; asked when a port connects, and never in a turn.
#[derive(Debug, Default)]
pub struct Names {
    all: RefCell<HashMap<Name, OfiAddress>>,
}

impl Names {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says where that name is. What was said before of it is forgotten.
    pub fn introduce(&self, name: &Name, address: OfiAddress) {
        self.all.borrow_mut().insert(*name, address);
    }

    /// Nobody of that name is anywhere. Who is connected to it stays so.
    pub fn forget(&self, name: &Name) {
        self.all.borrow_mut().remove(name);
    }

    /// Where that name is.
    #[must_use]
    pub fn find(&self, name: &Name) -> Option<OfiAddress> {
        self.all.borrow().get(name).cloned()
    }

    /// Tells the other end of a connection who is where here, and enters what it tells. Returns its name.
    ///
    /// # Errors
    /// What the connection says, or `InvalidData` where the other end speaks of something else.
    pub fn exchange(
        &self,
        mut with: impl Read + Write,
        (name, address): (&Name, &OfiAddress),
    ) -> io::Result<Name> {
        with.write_all(line(name, address).as_bytes())?;
        with.flush()?;
        let mut text = String::new();
        let _length = BufReader::new(with.take(LINE_BYTES_MAX)).read_line(&mut text)?;
        self.enter(&text)
    }

    /// Writes into a file who is where here, whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn publish(path: &Path, (name, address): (&Name, &OfiAddress)) -> io::Result<()> {
        let draft = path.with_extension(format!("draft-{}", std::process::id()));
        std::fs::write(&draft, line(name, address))?;
        std::fs::rename(&draft, path)
    }

    /// Enters who is where by the file that the other end publishes, waiting for it as long as `patience`. Returns its name.
    ///
    /// # Errors
    /// `TimedOut`, `InvalidData`, or what the file system says.
    pub fn await_file(&self, path: &Path, patience: Duration) -> io::Result<Name> {
        let from = Instant::now();
        loop {
            match std::fs::read_to_string(path) {
                Ok(text) => return self.enter(&text),
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Err(_not_there) if from.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_not_there) => {
                    let why = format!("{} did not appear; is the other end there?", path.display());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
            }
        }
    }

    pub(super) fn enter(&self, text: &str) -> io::Result<Name> {
        let wrong = || {
            let mut shown = String::new();
            // A text takes everything.
            let _always = write!(shown, "{:?}", text.get(..text.len().min(80)).unwrap_or_default());
            let why = format!(
                "{shown} does not say who is where; remedy: let both ends run the same version"
            );
            io::Error::new(io::ErrorKind::InvalidData, why)
        };
        let mut words = text.split_ascii_whitespace();
        let (Some(GREETING), Some(name), Some(address), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(wrong());
        };
        let name = Name::new(name).map_err(|_no_name| wrong())?;
        self.introduce(&name, address.parse().map_err(|_no_address| wrong())?);
        Ok(name)
    }
}

/// What such a line begins with: what it is, and its version.
const GREETING: &str = "spinwire-ofi-1";

pub(super) fn line(name: &Name, address: &OfiAddress) -> String {
    format!("{GREETING} {name} {address}\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn addresses_are_read_and_written() {
        for text in ["2:02001f907f000001", "9:00", "0:ff"] {
            assert_eq!(text.parse::<OfiAddress>().unwrap().to_string(), text);
        }
        for text in ["", "2", "2:", "2:0", "x:00", "2:0g", "2:é", ":00", "2:+1"] {
            let e = text.parse::<OfiAddress>().unwrap_err().to_string();
            assert!(e.contains("is no address"), "{text:?}: {e}");
        }
    }

    #[test]
    fn two_ends_tell_each_other() {
        let (here, there) = UnixStream::pair().unwrap();
        let (a, b) = (name("a"), name("b"));
        let (at_a, at_b): (OfiAddress, OfiAddress) =
            ("2:0a".parse().unwrap(), "2:0b".parse().unwrap());
        let other = std::thread::spawn(move || {
            let names = Names::new();
            let met = names.exchange(&there, (&name("b"), &"2:0b".parse().unwrap())).unwrap();
            (met, names.find(&met))
        });
        let names = Names::new();
        assert_eq!(names.exchange(&here, (&a, &at_a)).unwrap(), b);
        assert_eq!(names.find(&b), Some(at_b));
        assert_eq!(other.join().unwrap(), (a, Some(at_a)));
    }

    #[test]
    fn a_file_says_it_too_and_nonsense_is_refused() {
        let folder = std::env::temp_dir().join(format!("spinwire-names-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a");
        let names = Names::new();
        let none = names.await_file(&path, Duration::ZERO).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::TimedOut);
        let at: OfiAddress = "9:6162".parse().unwrap();
        Names::publish(&path, (&name("a"), &at)).unwrap();
        assert_eq!(names.await_file(&path, Duration::ZERO).unwrap(), name("a"));
        assert_eq!(names.find(&name("a")), Some(at));
        for text in [
            "",
            "spinwire-ofi-2 a 2:00\n",
            "spinwire-ofi-1 a\n",
            "spinwire-ofi-1 / 2:00\n",
            "spinwire-ofi-1 a 2:0\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let wrong = names.await_file(&path, Duration::ZERO).unwrap_err();
            assert_eq!(wrong.kind(), io::ErrorKind::InvalidData, "{text:?}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
