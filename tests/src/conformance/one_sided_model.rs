//! One-sided operations against a model.

use spinwire_dataplane::msg::Exposed;
use spinwire_dataplane::provider::{
    Access, CancelError, OneSided, RemotePlace, RemoteRegion, Status,
};

use super::one_sided::{BYTES, Local, Scene};
use super::rig::Rig;
use super::world::World;
use crate::rng::{Rng, pattern};

/// What the model knows of exposed memory.
struct Known {
    exposed: Exposed,
    access: Access,
    bytes: Vec<u8>,
    is_withdrawn: bool,
}

/// Random operations on memory that is exposed with random rights, withdrawn, and changed by its owner, against a model that is a vector of
/// bytes.
pub fn random_operations_match_a_model<R: Rig>(world: &World<'_, R>) {
    let Some(scene) = Scene::new(world, Access::NONE) else { return };
    let mut rng = Rng::new(0x51DE);
    let mut known: Vec<Known> = Vec::new();
    let (mut done, mut refused) = (0, 0);
    for step in 0..400_u64 {
        let live = known.iter().filter(|known| !known.is_withdrawn).count();
        match rng.index(12) {
            0 if live < 3 => {
                let some = Access::from_raw(u8::try_from(rng.index(8)).unwrap()).unwrap();
                let access = if rng.chance(50) { Access::ALL } else { some };
                let bytes = pattern(step, BYTES);
                let exposed = scene.b.expose(&bytes, access).unwrap();
                known.push(Known { exposed, access, bytes, is_withdrawn: false });
            }
            1 if live > 1 => {
                let at = rng.index(known.len());
                let Known { exposed, bytes, is_withdrawn, .. } = &mut known[at];
                match scene.b.withdraw(exposed.id) {
                    Ok(loan) => assert!(!*is_withdrawn && loan[..BYTES] == bytes[..]),
                    Err(CancelError::NotPosted) => assert!(*is_withdrawn),
                    Err(CancelError::Unsupported) => continue,
                }
                *is_withdrawn = true;
            }
            2 if live > 0 => {
                let at = rng.index(known.len());
                let Known { exposed, bytes, is_withdrawn, .. } = &mut known[at];
                let (offset, new) = (rng.index(28) * 8, pattern(step, rng.index(32)));
                let filled = scene.b.fill_exposed(exposed.id, offset, &new);
                assert_eq!(filled.is_ok(), !*is_withdrawn);
                if filled.is_ok() {
                    bytes[offset..offset + new.len()].copy_from_slice(&new);
                }
            }
            _ if !known.is_empty() => {
                let newest = known.len() - 1;
                let at = if rng.chance(60) { newest } else { rng.index(known.len()) };
                let is_done = operate(world, &scene, &mut known[at], (&mut rng, step));
                *(if is_done { &mut done } else { &mut refused }) += 1;
            }
            _ => {}
        }
        for Known { exposed, bytes, .. } in known.iter().filter(|known| !known.is_withdrawn) {
            let mut now = vec![0; BYTES];
            scene.b.copy_exposed(exposed.id, 0, &mut now).unwrap();
            assert!(now == *bytes, "step {step}");
        }
    }
    assert!(done > 50 && refused > 50, "{done} were done, {refused} refused");
}

/// Does a random operation on one piece of memory, and on the model. Whether it was done, and not refused.
fn operate<'m, R: Rig>(
    world: &World<'m, R>,
    scene: &Scene<'m, R>,
    Known { exposed, access, bytes, is_withdrawn }: &mut Known,
    (rng, step): (&mut Rng, u64),
) -> bool {
    let (mut op, local) = random_operation(rng, step);
    let local = match &local {
        Ok(bytes) => Local::Bytes(bytes),
        Err(length) => Local::Length(*length),
    };
    let aside = if !op.is_atomic() || rng.chance(20) { rng.index(8) } else { 0 };
    let offset = rng.index(27) * 8 + aside;
    if let OneSided::CompareSwap { expected, .. } = &mut op
        && rng.chance(50)
    {
        *expected = u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap());
    }
    let RemoteRegion { address, key, .. } = exposed.region;
    let place = RemotePlace { address: address + u64::try_from(offset).unwrap(), key };
    let aligned = !op.is_atomic() || offset.is_multiple_of(8);
    let is_refused = *is_withdrawn || !access.has(op.access()) || !aligned;
    if is_refused && R::REFUSALS_END {
        return false;
    }
    let got = scene.done(world, op, place, local);
    if is_refused {
        assert_eq!(got.status, Status::RemoteAccess, "step {step}: {op:?} at {offset}");
        return false;
    }
    assert_eq!(got.status, Status::Success, "step {step}: {op:?} at {offset}");
    let there = &mut bytes[offset..offset + got.length];
    if let Local::Bytes(new) = local {
        there.copy_from_slice(new);
        return true;
    }
    assert_eq!(got.bytes, there, "step {step}: {op:?} at {offset}");
    if op.is_atomic() {
        let before = u64::from_le_bytes((&*there).try_into().unwrap());
        there.copy_from_slice(&op.applied_to(before).to_le_bytes());
    }
    true
}

/// An operation, and what it writes or how much it reads.
fn random_operation(rng: &mut Rng, step: u64) -> (OneSided, Result<Vec<u8>, usize>) {
    match rng.index(4) {
        0 => (OneSided::Write, Ok(pattern(step, 1 + rng.index(32)))),
        1 => (OneSided::Read, Err(1 + rng.index(32))),
        2 => (OneSided::FetchAdd(rng.word()), Err(8)),
        _ => {
            let expected = if rng.chance(50) { 0 } else { rng.word() };
            (OneSided::CompareSwap { expected, swap: rng.word() }, Err(8))
        }
    }
}
