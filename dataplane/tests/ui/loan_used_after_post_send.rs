//! A posted buffer is the provider's until its completion: the poster cannot write into it meanwhile.

use spinwire_dataplane::msg::{Endpoint, SendTo};
use spinwire_dataplane::provider::Provider;
use spinwire_dataplane::raw::loan::Loan;

fn send<'m, P: Provider>(endpoint: &Endpoint<'m, P>, to: SendTo, mut loan: Loan<'m>) {
    let posted = endpoint.post_send(to, loan, 0);
    loan.room()[0] = 1;
    drop(posted);
}

fn main() {}
