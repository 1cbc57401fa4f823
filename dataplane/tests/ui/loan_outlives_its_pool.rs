//! Buffers cannot outlive the arena that they lie in.

use std::mem::MaybeUninit;

use spinwire_dataplane::raw::loan::{Loan, LoanPool};
use spinwire_dataplane::raw::place::Bump;

fn escape() -> Option<Loan<'static>> {
    let mut block = vec![MaybeUninit::uninit(); 4096];
    let bump = Bump::new(&mut block);
    LoanPool::place(&bump, 1, 64).ok()?.lend()
}

fn main() {
    drop(escape());
}
