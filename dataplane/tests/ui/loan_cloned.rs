//! A loan has one holder: it cannot be cloned.

use spinwire_dataplane::raw::loan::Loan;

fn twice<'m>(loan: &Loan<'m>) -> Loan<'m> {
    loan.clone()
}

fn main() {}
