//! A provider is of one endpoint: two could take each other's completions, and with them buffers that are still written.

use spinwire_dataplane::provider::Provider;
use spinwire_dataplane::provider::loopback::Port;

fn is_provider(_: impl Provider) {}

fn lent(port: &Port<'_, '_>) {
    is_provider(port);
}

fn main() {}
