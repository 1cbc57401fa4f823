//! A refused post gives the buffer back; to throw that away unread takes a decision.
#![deny(unused_must_use)]

use spinwire_dataplane::msg::{Endpoint, SendTo};
use spinwire_dataplane::provider::Provider;

fn send<P: Provider>(endpoint: &Endpoint<'_, P>, to: SendTo) {
    endpoint.inject(to, b"x");
}

fn main() {}
