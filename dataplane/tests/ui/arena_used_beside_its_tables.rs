//! Whoever placed tables in a block cannot touch the block while they live.

use std::mem::MaybeUninit;

use spinwire_dataplane::raw::place::Bump;

fn main() {
    let mut block = vec![MaybeUninit::<u8>::uninit(); 4096];
    let bump = Bump::new(&mut block);
    let table = bump.slice_with(8, |i| i).unwrap();
    block[0] = MaybeUninit::new(1);
    drop(table.first());
}
