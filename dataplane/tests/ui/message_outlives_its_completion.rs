//! The bytes of a completion live as long as the loan in it.

use spinwire_dataplane::msg::Completion;

fn first(completion: Completion<'_>) -> Option<u8> {
    let bytes = completion.bytes()?;
    drop(completion);
    bytes.first().copied()
}

fn main() {}
