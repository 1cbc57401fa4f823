//! Numbered states, kinds and names: small enumerations whose numbers lie in shared memory.
//!
//! A number that was read from shared memory is never turned into an enumeration by force:
//! `from_code` answers `None` for a number that is not in the list, and the caller treats that as
//! corruption.

/// Defines an enumeration whose numbers and names are part of the contract with the other side.
///
/// Emits the enumeration (`Clone, Copy, Debug, PartialEq, Eq, Hash`), `COUNT`, `ALL`, `code`,
/// `from_code`, `name`, `Display` (the name) and `HASH`, which goes into
/// [`abi::LAYOUT_HASH`](crate::abi::LAYOUT_HASH).
macro_rules! codes {
    (
        $(#[$meta:meta])+
        pub enum $name:ident: $int:ident {
            $( $(#[$variant_meta:meta])+ $variant:ident = $code:literal $text:literal ),+ $(,)?
        }
    ) => {
        $(#[$meta])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($int)]
        pub enum $name {
            $( $(#[$variant_meta])+ $variant = $code, )+
        }

        impl $name {
            /// All values, in the order of the source.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Number of values.
            pub const COUNT: usize = Self::ALL.len();

            /// Hash of the numbers and the names.
            pub const HASH: u64 = {
                let mut hash = $crate::describe::hash_str(
                    $crate::describe::HASH_START,
                    stringify!($name),
                );
                $(
                    hash = $crate::describe::hash_bytes(hash, &$int::to_le_bytes($code));
                    hash = $crate::describe::hash_str(hash, $text);
                )+
                hash
            };

            /// The number that lies in memory.
            #[inline]
            #[must_use]
            pub const fn code(self) -> $int {
                match self {
                    $( Self::$variant => $code, )+
                }
            }

            /// The value of a number that was read from memory, or `None` where the number is not
            /// in the list.
            #[inline]
            #[must_use]
            pub const fn from_code(code: $int) -> Option<Self> {
                match code {
                    $( $code => Some(Self::$variant), )+
                    _ => None,
                }
            }

            /// Lower-case name, as tools print it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $text, )+
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

#[cfg(test)]
#[expect(dead_code, unreachable_pub, reason = "the macro emits more than the tests use")]
mod tests {
    codes! {
        /// Three colours.
        pub enum Colour: u8 {
            /// Red.
            Red = 0 "red",
            /// Green.
            Green = 2 "green",
            /// Blue.
            Blue = 255 "blue",
        }
    }

    #[test]
    fn only_listed_numbers_have_a_value() {
        let mut seen = 0;
        for code in 0..=255 {
            if let Some(colour) = Colour::from_code(code) {
                assert_eq!(colour.code(), code);
                seen += 1;
            }
        }
        assert_eq!(seen, Colour::COUNT);
        assert_eq!(Colour::ALL, [Colour::Red, Colour::Green, Colour::Blue]);
        assert_eq!(std::format!("{:>6}", Colour::Red), "   red");
    }
}
