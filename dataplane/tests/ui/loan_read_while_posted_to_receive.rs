//! A buffer that is posted to receive cannot be read before its completion gives it back.

use spinwire_dataplane::msg::{Endpoint, RecvFrom};
use spinwire_dataplane::provider::Provider;
use spinwire_dataplane::raw::loan::Loan;

fn receive<'m, P: Provider>(endpoint: &Endpoint<'m, P>, loan: Loan<'m>) -> usize {
    let posted = endpoint.post_recv(RecvFrom::any(), loan, 0);
    drop(posted);
    loan.len()
}

fn main() {}
