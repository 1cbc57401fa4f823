//! Secrets of endpoints: random bits of the kernel.

use std::fs::File;
use std::io::Read as _;

use spinwire_dataplane::provider::secret::Secret;

/// One that nobody else has. Where the kernel gives no random bits there is none, and peers that have lost a connection come again as others would.
pub(crate) fn fresh() -> Secret {
    let mut bits = [0; 16];
    // urandom(4).
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bits));
    let (halves, _none_left) = bits.as_chunks::<8>();
    match (read, halves) {
        (Ok(()), [a, b]) => Secret::new([u64::from_le_bytes(*a), u64::from_le_bytes(*b)]),
        _ => Secret::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let (one, other) = (fresh(), fresh());
        assert!(one.is_some() && one != other);
    }
}
