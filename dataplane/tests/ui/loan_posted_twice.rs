//! One buffer carries one operation.

use spinwire_dataplane::msg::{Endpoint, SendTo};
use spinwire_dataplane::provider::Provider;
use spinwire_dataplane::raw::loan::Loan;

fn send<'m, P: Provider>(endpoint: &Endpoint<'m, P>, to: SendTo, loan: Loan<'m>) {
    let first = endpoint.post_send(to, loan, 1);
    let second = endpoint.post_send(to, loan, 2);
    drop((first, second));
}

fn main() {}
