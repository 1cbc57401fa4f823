//! A builder is lent to a closure and cannot leave it.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::wqe::{Qp, WqeFlags};

fn keep(qp: &Qp<'_, u32, Device>) -> Result<(), PostError> {
    let kept = qp.with_sq_wqe(|wqe| Ok::<_, PostError>(wqe))?;
    kept.nop(WqeFlags::NONE).finish_unsignaled()
}

fn store(qp: &Qp<'_, u32, Device>) -> Result<(), PostError> {
    let mut kept = None;
    qp.with_sq_wqe(|wqe| {
        kept = Some(wqe.send(WqeFlags::NONE));
        Ok::<_, PostError>(())
    })
}

fn main() {}
