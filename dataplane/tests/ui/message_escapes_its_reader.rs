//! Bytes of a multi-receive can be looked at inside of `read` only; they may be given back after it.

use spinwire_dataplane::msg::{Completion, Endpoint};
use spinwire_dataplane::provider::Provider;

fn peek<'m, P: Provider>(endpoint: &Endpoint<'m, P>, completion: &Completion<'m>) -> Option<u8> {
    let bytes = endpoint.read(completion, |bytes| bytes)?;
    bytes.first().copied()
}

fn main() {}
