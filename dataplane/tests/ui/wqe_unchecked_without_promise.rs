//! Who builds without the flag gives his word.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::region::LocalSge;
use spinwire_dataplane::wqe::{Qp, WqeFlags};

fn post(qp: &Qp<'_, u32, Device>) -> Result<(), PostError> {
    qp.sq_wqe_unchecked().nop(WqeFlags::NONE).finish_signaled(1)
}

fn any_address(qp: &Qp<'_, u32, Device>) -> Result<(), PostError> {
    let sge = LocalSge::from_raw(0x1000, 64, 7)?;
    qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).sge(sge).finish_signaled(1))
}

fn main() {}
