//! Names of segments, endpoints and planes: 1 to 63 bytes of `A-Z a-z 0-9 . _ -`, not starting with
//! a dot.
//!
//! Why so narrow: a name becomes a file name in `/dev/shm` and a word in a shell command, so it
//! must hold no slash, no space and no control character, and must not be `.`, `..` or hidden. In
//! memory a name is 64 bytes, filled up with zeros; the last byte is always zero.

use core::fmt;

/// Bytes of a name field.
pub const NAME_BYTES: usize = 64;

/// Most bytes of a name: the field without its closing zero.
pub const NAME_LENGTH_MAX: usize = 63;

const _: () = assert!(NAME_LENGTH_MAX + 1 == NAME_BYTES);

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// It is empty.
    Empty,
    /// It has more than [`NAME_LENGTH_MAX`] bytes.
    TooLong {
        /// How many it has.
        length: usize,
    },
    /// It starts with a dot.
    LeadingDot,
    /// It holds a byte that names may not hold.
    BadByte {
        /// The byte.
        byte: u8,
        /// How many bytes come before it.
        index: usize,
    },
    /// Read from memory only: after the closing zero of the field another byte follows.
    BytesAfterEnd,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("the name is empty: give 1 to 63 characters"),
            Self::TooLong { length } => {
                write!(f, "the name has {length} bytes: give at most {NAME_LENGTH_MAX}")
            }
            Self::LeadingDot => {
                f.write_str("the name starts with a dot: start with a letter or a digit")
            }
            Self::BadByte { byte, index } => write!(
                f,
                "byte {index} of the name is '{}': use only letters, digits, '.', '_' and '-'",
                byte.escape_ascii()
            ),
            Self::BytesAfterEnd => {
                f.write_str("the name field holds bytes after its end: it was overwritten")
            }
        }
    }
}

impl core::error::Error for NameError {}

/// Whether `name` may be the name of a segment, an endpoint or a plane.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_name(name: &[u8]) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err(NameError::TooLong { length: name.len() });
    }
    if name.first() == Some(&b'.') {
        return Err(NameError::LeadingDot);
    }
    let bad = name
        .iter()
        .enumerate()
        .find(|(_, byte)| !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')));
    match bad {
        Some((index, byte)) => Err(NameError::BadByte { byte: *byte, index }),
        None => Ok(()),
    }
}

/// `name` as it lies in memory, filled up with zeros.
///
/// # Errors
/// As [`check_name`].
pub fn pack_name(name: &str) -> Result<[u8; NAME_BYTES], NameError> {
    check_name(name.as_bytes())?;
    let mut field = [0; NAME_BYTES];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    Ok(field)
}

/// The name in a field that was copied from memory, which a peer may have written.
///
/// # Errors
/// As [`check_name`]; [`NameError::TooLong`] where no closing zero is found,
/// [`NameError::BytesAfterEnd`] where the rest of the field is not zero.
pub fn unpack_name(field: &[u8; NAME_BYTES]) -> Result<&str, NameError> {
    let length = field.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
    let Some((name, rest)) = field.split_at_checked(length) else {
        return Err(NameError::TooLong { length });
    };
    check_name(name)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(NameError::BytesAfterEnd);
    }
    // Only ASCII gets through `check_name`, so this cannot fail; an error is still better than a
    // claim.
    match core::str::from_utf8(name) {
        Ok(text) => Ok(text),
        Err(error) => Err(NameError::BadByte { byte: 0, index: error.valid_up_to() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn good_names_come_back() {
        let longest = "x".repeat(63);
        for name in ["a", "lat", "Plane-7_b.c", "0", "-", longest.as_str()] {
            let field = pack_name(name).unwrap();
            assert_eq!(unpack_name(&field), Ok(name));
            assert_eq!(field[63], 0);
        }
    }

    #[test]
    fn bad_names_are_refused_with_the_reason() {
        let cases = [
            ("", NameError::Empty),
            (".", NameError::LeadingDot),
            ("..", NameError::LeadingDot),
            (".hidden", NameError::LeadingDot),
            ("a/b", NameError::BadByte { byte: b'/', index: 1 }),
            ("a b", NameError::BadByte { byte: b' ', index: 1 }),
            ("ab\n", NameError::BadByte { byte: b'\n', index: 2 }),
            ("a\0", NameError::BadByte { byte: 0, index: 1 }),
            ("\u{e9}", NameError::BadByte { byte: 0xc3, index: 0 }),
        ];
        for (name, error) in cases {
            assert_eq!(pack_name(name), Err(error), "{name:?}");
        }
        assert_eq!(pack_name(&"x".repeat(64)), Err(NameError::TooLong { length: 64 }));
    }

    #[test]
    fn exactly_the_listed_bytes_are_allowed() {
        let allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
        for byte in 0..=255 {
            assert_eq!(
                check_name(&[b'a', byte]).is_ok(),
                allowed.as_bytes().contains(&byte),
                "{byte}"
            );
        }
    }

    #[test]
    fn fields_from_a_hostile_peer_are_refused() {
        assert_eq!(unpack_name(&[0; 64]), Err(NameError::Empty));
        assert_eq!(unpack_name(&[b'a'; 64]), Err(NameError::TooLong { length: 64 }));
        assert_eq!(unpack_name(&[0xff; 64]), Err(NameError::TooLong { length: 64 }));
        let mut field = pack_name("abc").unwrap();
        field[9] = b'x';
        assert_eq!(unpack_name(&field), Err(NameError::BytesAfterEnd));
        field[3] = 0xff;
        assert_eq!(unpack_name(&field), Err(NameError::BadByte { byte: 0xff, index: 3 }));
    }

    #[test]
    fn the_message_shows_the_offender_and_the_remedy() {
        assert_eq!(
            NameError::BadByte { byte: b'/', index: 4 }.to_string(),
            "byte 4 of the name is '/': use only letters, digits, '.', '_' and '-'"
        );
        assert!(NameError::BadByte { byte: b'\n', index: 0 }.to_string().contains("'\\n'"));
    }
}
