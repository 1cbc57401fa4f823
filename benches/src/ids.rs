//! Ids: operation tag, generation and slot in one word, and back.

use core::hint::black_box;

use spinwire_dataplane::id::{Generation, OpTag, WrId};

use crate::case::{Case, Entry, fold, fold_below};

/// The cases.
pub const ENTRIES: &[Entry] = &[Entry::new("id/pack_and_take_apart", pack_and_take_apart)];

fn pack_and_take_apart() -> Case {
    let generation = Generation::from_raw(12_345).unwrap();
    let rounds = move |rounds| {
        let mut hash = 0;
        for i in 0..rounds {
            let slot = u32::try_from(i & 0xFFFF).unwrap();
            let id = black_box(WrId::new(OpTag::Recv, black_box(generation), slot));
            let (op, found, slot) = id.parts().unwrap();
            assert!(op == OpTag::Recv && found == generation);
            hash = fold(hash, u64::from(slot));
        }
        hash
    };
    Case::new(rounds, |rounds| {
        if rounds <= 0x1_0000 {
            fold_below(rounds)
        } else {
            (0..rounds).fold(0, |h, i| fold(h, i & 0xFFFF))
        }
    })
}
