//! By what a peer knows an endpoint again that has said hello before.
//!
//! ```text
//!   secret of the endpoint, the name of the peer --> SipHash-2-4 --> token: in each hello to that peer, and in no other
//! ```
//!
//! Whoever says a name need not be who has it. A peer that is connected has heard the token, and nobody else has: so one who says it is the same endpoint,
//! which has lost the connection. It tells nothing of an endpoint that was opened anew, whose secret is another.

use core::fmt;

use spinwire_layouts::word::from_usize;

use crate::id::Name;

/// What the tokens of an endpoint are made of: random bits that nobody else knows, others each time that it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Secret {
    key: [u64; 2],
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

impl Secret {
    /// None: nobody is known again.
    pub const NONE: Self = Self { key: [0; 2] };

    /// Of random bits.
    #[must_use]
    pub const fn new(key: [u64; 2]) -> Self {
        Self { key }
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_some(&self) -> bool {
        let [a, b] = self.key;
        a != 0 || b != 0
    }

    /// What the endpoint says to the peer of that name; 0 without a secret.
    #[must_use]
    pub fn token_for(&self, peer: &Name) -> u64 {
        if self.is_some() { sip_hash(self.key, peer.as_field()).max(1) } else { 0 }
    }
}

/// SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012) of words of 8 bytes.
fn sip_hash([k0, k1]: [u64; 2], bytes: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, _none_left) = bytes.as_chunks::<8>();
    let length = from_usize(words.len()).wrapping_mul(8).wrapping_shl(56);
    for word in words.iter().map(|word| u64::from_le_bytes(*word)).chain([length]) {
        let [a, b, c, d] = v;
        let [a, b, c, d] = round(round([a, b, c, d ^ word]));
        v = [a ^ word, b, c, d];
    }
    let [a, b, c, d] = v;
    let [a, b, c, d] = round(round(round(round([a, b, c ^ 0xff, d]))));
    a ^ b ^ c ^ d
}

const fn round([a, b, c, d]: [u64; 4]) -> [u64; 4] {
    let a = a.wrapping_add(b);
    let b = b.rotate_left(13) ^ a;
    let a = a.rotate_left(32);
    let c = c.wrapping_add(d);
    let d = d.rotate_left(16) ^ c;
    let a = a.wrapping_add(d);
    let d = d.rotate_left(21) ^ a;
    let c = c.wrapping_add(b);
    let b = b.rotate_left(17) ^ c;
    let c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    #![expect(deprecated, reason = "it is the oracle, and none that is newer says what it is")]

    use core::hash::{Hasher, SipHasher};

    use super::*;

    #[test]
    fn tokens_are_siphash_of_the_name() {
        for (number, text) in ["a", "hub", "a-name-that-is-rather-long-for-one"].iter().enumerate()
        {
            let key = [0x0706_0504_0302_0100 + from_usize(number), 0x0f0e_0d0c_0b0a_0908];
            let name = Name::new(text).unwrap();
            let mut oracle = SipHasher::new_with_keys(key[0], key[1]);
            oracle.write(name.as_field());
            assert_eq!(Secret::new(key).token_for(&name), oracle.finish(), "{text}");
        }
    }

    #[test]
    fn each_peer_hears_another_and_without_a_secret_none_does() {
        let names = ["a", "b"].map(|text| Name::new(text).unwrap());
        let (one, other) = (Secret::new([1, 2]), Secret::new([1, 3]));
        assert_ne!(one.token_for(&names[0]), one.token_for(&names[1]));
        assert_ne!(one.token_for(&names[0]), other.token_for(&names[0]));
        assert_eq!(Secret::NONE.token_for(&names[0]), 0);
        assert!(!Secret::NONE.is_some() && Secret::new([0, 1]).is_some());
        let shown = std::format!("{one:?}");
        assert!(!shown.contains(['1', '2']), "nobody reads it in a log: {shown}");
    }
}
