//! Whoever is handed posted memory promises to keep to its rules: no transport does so by the way.

use spinwire_dataplane::provider::KeepsPosted;

struct Careless;

impl KeepsPosted for Careless {}

fn main() {}
