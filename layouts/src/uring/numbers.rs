//! Numbers of the kernel: opcodes and flags as constants, and as data.
//!
//! A list in the source is at once a module of constants, for the code, and a slice of [`Number`](crate::describe::Number)s
//! with the names of the kernel's header, for whoever compares or prints them.

/// Widens a number of the type that the constant has; named as the types, for the macro.
pub(super) mod widen {
    pub(in crate::uring) const fn u8(value: u8) -> u64 {
        u64::from_le_bytes([value, 0, 0, 0, 0, 0, 0, 0])
    }

    pub(in crate::uring) const fn u16(value: u16) -> u64 {
        let [low, high] = value.to_le_bytes();
        u64::from_le_bytes([low, high, 0, 0, 0, 0, 0, 0])
    }

    pub(in crate::uring) const fn u32(value: u32) -> u64 {
        crate::word::widen(value)
    }

    pub(in crate::uring) const fn u64(value: u64) -> u64 {
        value
    }
}

/// The name of a constant in C: the prefix of its list and its own name, or another one where it is
/// given.
macro_rules! name_in_c {
    ($prefix:literal $name:ident) => {
        concat!($prefix, stringify!($name))
    };
    ($prefix:literal $name:ident $whole:literal) => {
        $whole
    };
}

/// Defines modules of constants, each with `LIST`, the same constants as [`Number`]s.
macro_rules! numbers {
    ($(
        $(#[doc = $doc:literal])+
        pub mod $module:ident: $int:ident $prefix:literal {
            $( $(#[doc = $number_doc:literal])+ $name:ident = $value:expr $(, $whole:literal)?; )+
        }
    )+) => {$(
        $(#[doc = $doc])+
        pub mod $module {
            $( $(#[doc = $number_doc])+ pub const $name: $int = $value; )+

            /// All of them, with their names in C.
            pub const LIST: &[$crate::describe::Number] = &[$(
                $crate::describe::Number {
                    name: name_in_c!($prefix $name $($whole)?),
                    value: $crate::uring::numbers::widen::$int($name),
                },
            )+];
        }
    )+};
}
