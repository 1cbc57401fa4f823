//! One rule a test: what a user of the table may rely on.

use spinwire_dataplane::chain::{
    Cause, ChainError, ChainEvent, ChainFault, ChainId, ChainTable, Entry, EntrySet, Progress,
    Remains, Why,
};
use spinwire_tests::rng::Rng;

use crate::{ECANCELED, EIO, EPIPE, F_MORE, F_NOTIF, with_table};

/// So many sends of 100 bytes on connection 7, of buffers 0, 1, ..
fn sends(table: &ChainTable<'_>, count: u64) -> ChainId {
    let entries: Vec<Entry> = (0..count).map(|buffer| Entry::bytes(100, buffer)).collect();
    table.start(7, &entries).unwrap()
}

fn feed(table: &ChainTable<'_>, (id, entry): (ChainId, u16), res: i32, flags: u32) -> Progress {
    table.on_cqe(id.user_data(entry).unwrap().as_raw(), res, flags).unwrap()
}

const fn complete(bytes: u64, result: Result<(), Cause>) -> ChainEvent {
    ChainEvent::Complete { bytes, result }
}

const fn failed(entry: u16, errno: i32) -> Result<(), Cause> {
    Err(Cause { entry, why: Why::Errno(errno) })
}

#[test]
fn a_chain_of_one() {
    with_table(16, 4, |table| {
        let id = sends(table, 1);
        assert_eq!((table.len(), table.context(id)), (1, Ok(7)));
        let progress = feed(table, (id, 0), 100, 0);
        assert_eq!((progress.chain, progress.entry, progress.context), (id, 0, 7));
        assert_eq!((progress.returned, progress.event), (Some(0), complete(100, Ok(()))));
        assert_eq!(table.len(), 1, "it stays until it is taken");
        let outcome = table.take(id).unwrap();
        assert_eq!((outcome.context, outcome.entries, outcome.bytes), (7, 1, 100));
        assert_eq!((outcome.result, outcome.remains), (Ok(()), Remains::Nothing));
        assert_eq!((table.len(), table.take(id)), (0, Err(ChainError::Stale)));
    });
}

/// A whole send is taken in one step; whatever else a CQE may say of it is not, and is then taken in as ever.
#[test]
fn a_send_that_went_whole_is_taken_in_one_step() {
    with_table(2, 4, |table| {
        let name = |id: ChainId| id.user_data(0).unwrap().as_raw();
        let id = sends(table, 1);
        for (res, flags) in [(99, 0), (101, 0), (-EPIPE, 0), (100, F_MORE), (100, F_NOTIF)] {
            assert_eq!(table.take_whole(name(id), res, flags), None, "{res} {flags}");
        }
        assert_eq!(table.take_whole(name(id) | 1, 100, 0), None, "another entry");
        assert_eq!(table.take_whole(name(id) & !(0xff << 56), 100, 0), None, "another kind");
        assert_eq!(table.outstanding(id).unwrap().operations.len(), 1, "and nothing has changed");
        assert_eq!(table.take_whole(name(id), 100, 0), Some((id.slot(), 7)));
        assert_eq!((table.len(), table.counts().completed), (0, 1));
        assert_eq!(table.take_whole(name(id), 100, 0), None, "it has ended");
        assert_eq!(table.on_cqe(name(id), 100, 0), Err(ChainFault::Stale));
        let [first, second] = [sends(table, 1), sends(table, 1)];
        assert_ne!(first.slot(), second.slot());
        assert!(table.is_full(), "each slot is there once");
        table.cancel(first).unwrap();
        assert_eq!(table.take_whole(name(first), 100, 0), None, "who cancelled it hears of it");
        feed(table, (first, 0), 100, 0);
        assert!(table.take(first).unwrap().was_cancelled);
        let two = sends(table, 2);
        assert_eq!(table.take_whole(name(two), 100, 0), None, "of two");
        let record = table.start(1, &[Entry::plain(0)]);
        assert_eq!(record, Err(ChainError::Full));
        assert_eq!(table.take_whole(name(second), 100, 0), Some((second.slot(), 7)));
        let record = table.start(1, &[Entry::plain(0)]).unwrap();
        assert_eq!(table.take_whole(name(record), 0, 0), None, "of no bytes");
    });
}

/// Slots that are named and such that are not, begun and ended in any order: none is handed out while it has a chain, and none is lost.
#[test]
fn a_slot_that_was_named_is_not_handed_out_to_another() {
    with_table(4, 1, |table| {
        let one = [Entry::bytes(1, 0)];
        let mut rng = Rng::new(4);
        let mut live: [Option<(ChainId, u64)>; 4] = [None; 4];
        for step in 0..10_000_u64 {
            let at = rng.index(4);
            match rng.index(5) {
                0 | 1 => match table.start_at(u32::try_from(at).unwrap(), step, &one) {
                    Ok(id) => assert_eq!(live[at].replace((id, step)), None),
                    Err(error) => assert!(error == ChainError::Occupied && live[at].is_some()),
                },
                2 | 3 => match table.start(step, &one) {
                    Ok(id) => {
                        let slot = usize::try_from(id.slot()).unwrap();
                        assert_eq!(live[slot].replace((id, step)), None, "it has a chain");
                    }
                    Err(error) => {
                        assert_eq!(error, ChainError::Full);
                        assert!(live.iter().all(Option::is_some), "one is lost: {live:?}");
                    }
                },
                _ => {
                    let Some((id, context)) = live[at].take() else { continue };
                    let name = id.user_data(0).unwrap().as_raw();
                    if step % 2 == 0 {
                        assert_eq!(table.take_whole(name, 1, 0), Some((id.slot(), context)));
                    } else {
                        table.abandon(id, |_, _| ()).unwrap();
                    }
                }
            }
            for (id, context) in live.iter().flatten() {
                assert_eq!(table.context(*id), Ok(*context));
            }
        }
    });
}

#[test]
fn a_chain_of_three_is_complete_with_its_last() {
    with_table(16, 4, |table| {
        let id = sends(table, 3);
        assert_eq!(feed(table, (id, 0), 100, 0).event, ChainEvent::Pending);
        assert_eq!(feed(table, (id, 1), 100, 0).event, ChainEvent::Pending);
        assert_eq!(feed(table, (id, 2), 100, 0).event, complete(300, Ok(())));
    });
}

#[test]
fn an_error_cancels_what_follows_and_is_the_cause() {
    with_table(16, 4, |table| {
        let id = sends(table, 3);
        assert_eq!(feed(table, (id, 0), 100, 0).event, ChainEvent::Pending);
        assert_eq!(feed(table, (id, 1), -EIO, 0).event, ChainEvent::Pending);
        assert_eq!(feed(table, (id, 2), -ECANCELED, 0).event, complete(100, failed(1, EIO)));
        assert_eq!(table.take(id).unwrap().remains, Remains::From { entry: 1, byte: 0 });
    });
}

#[test]
fn a_cancelled_entry_that_is_reported_first_does_not_hide_the_error() {
    with_table(16, 4, |table| {
        let id = sends(table, 3);
        assert_eq!(feed(table, (id, 2), -ECANCELED, 0).event, ChainEvent::Pending);
        assert_eq!(feed(table, (id, 1), -EPIPE, 0).event, ChainEvent::Pending);
        assert_eq!(feed(table, (id, 0), 100, 0).event, complete(100, failed(1, EPIPE)));
    });
}

#[test]
fn a_chain_that_was_only_cancelled_says_so_with_the_first_entry_that_was() {
    with_table(16, 4, |table| {
        let id = sends(table, 3);
        feed(table, (id, 2), -ECANCELED, 0);
        feed(table, (id, 0), 100, 0);
        let event = feed(table, (id, 1), -ECANCELED, 0).event;
        assert_eq!(event, complete(100, failed(1, ECANCELED)));
    });
}

#[test]
fn a_notification_is_waited_for() {
    with_table(16, 4, |table| {
        let id = sends(table, 2);
        let first = feed(table, (id, 0), 100, F_MORE);
        assert_eq!((first.returned, first.event), (None, ChainEvent::Pending));
        let second = feed(table, (id, 1), 100, 0);
        assert_eq!((second.returned, second.event), (Some(1), ChainEvent::AllOpsComplete));
        assert_eq!(table.take(id), Err(ChainError::Pending));
        let last = feed(table, (id, 0), 0, F_NOTIF);
        assert_eq!((last.returned, last.event), (Some(0), complete(200, Ok(()))));
    });
}

#[test]
fn a_notification_is_waited_for_after_an_error_too_and_only_where_it_was_announced() {
    with_table(16, 4, |table| {
        let id = sends(table, 3);
        assert_eq!(feed(table, (id, 0), 40, 0).returned, Some(0), "sent in part, and copied");
        assert_eq!(feed(table, (id, 1), -ECANCELED, F_MORE).returned, None);
        let all = feed(table, (id, 2), -ECANCELED, F_MORE);
        assert_eq!((all.returned, all.event), (None, ChainEvent::AllOpsComplete));
        let outstanding = table.outstanding(id).unwrap();
        assert_eq!(outstanding.held(), EntrySet::from_bits(0b110));
        assert_eq!(feed(table, (id, 2), 0, F_NOTIF).event, ChainEvent::AllOpsComplete);
        let last = feed(table, (id, 1), 0, F_NOTIF);
        let short = Err(Cause { entry: 0, why: Why::Short { bytes: 40 } });
        assert_eq!((last.returned, last.event), (Some(1), complete(40, short)));
        assert_eq!(table.take(id).unwrap().remains, Remains::From { entry: 0, byte: 40 });
    });
}

/// As Linux 6.18 was seen to complete three linked zero-copy sends on a socket that is shut down: the two that never ran are
/// cancelled without `F_MORE`, and their notifications come all the same.
#[test]
fn a_notification_that_nobody_announced_is_passed_over() {
    with_table(1, 4, |table| {
        let id = sends(table, 3);
        assert_eq!(feed(table, (id, 0), -EPIPE, F_MORE).returned, None);
        assert_eq!(feed(table, (id, 0), 0, F_NOTIF).returned, Some(0));
        assert_eq!(feed(table, (id, 1), -ECANCELED, 0).returned, Some(1));
        let notice = |entry| table.on_cqe(id.user_data(entry).unwrap().as_raw(), 0, F_NOTIF);
        assert_eq!(notice(1), Err(ChainFault::Unannounced), "the chain lives");
        let last = feed(table, (id, 2), -ECANCELED, 0);
        assert_eq!((last.returned, last.event), (Some(2), complete(0, failed(0, EPIPE))));
        table.take(id).unwrap();
        let next = sends(table, 3);
        assert_eq!((next.slot(), notice(2)), (id.slot(), Err(ChainFault::Stale)), "it has ended");
        assert_eq!(table.outstanding(next).unwrap().operations, EntrySet::from_bits(0b111));
        assert!(ChainFault::Unannounced.is_expected() && ChainFault::Stale.is_expected());
    });
}

/// As Linux 6.18 completes a chain whose second entry it does not understand: the first is cancelled for it.
#[test]
fn an_entry_that_cannot_be_submitted_is_the_cause_though_others_before_it_were_cancelled() {
    with_table(1, 4, |table| {
        let id = sends(table, 3);
        feed(table, (id, 0), -ECANCELED, 0);
        feed(table, (id, 1), -EIO, 0);
        let event = feed(table, (id, 2), -ECANCELED, 0).event;
        assert_eq!(event, complete(0, failed(1, EIO)));
        assert_eq!(table.take(id).unwrap().remains, Remains::From { entry: 0, byte: 0 });
    });
}

#[test]
fn a_cancelled_chain_is_still_waited_for() {
    with_table(16, 8, |table| {
        let id = sends(table, 5);
        feed(table, (id, 0), 100, F_MORE);
        let outstanding = table.cancel(id).unwrap();
        assert_eq!(outstanding.operations, EntrySet::from_bits(0b11110));
        assert_eq!(outstanding.notifications, EntrySet::from_bits(0b00001));
        let names: Vec<_> = outstanding.user_data().map(Some).collect();
        assert_eq!(names, [1, 2, 3, 4].map(|entry| id.user_data(entry)));
        assert_eq!((table.len(), table.take(id)), (1, Err(ChainError::Pending)));
        // The one that ran had moved some bytes, and says so.
        feed(table, (id, 1), 30, F_MORE);
        for entry in 2..5 {
            assert_eq!(feed(table, (id, entry), -ECANCELED, 0).returned, Some(entry.into()));
        }
        feed(table, (id, 0), 0, F_NOTIF);
        feed(table, (id, 1), 0, F_NOTIF);
        let outcome = table.take(id).unwrap();
        assert!(outcome.was_cancelled);
        assert_eq!((outcome.bytes, outcome.remains), (130, Remains::From { entry: 1, byte: 30 }));
    });
}

#[test]
fn an_id_of_a_slot_that_was_never_used_is_unknown() {
    with_table(2, 4, |table| {
        let id = sends(table, 1);
        let other = with_table(16, 4, |other| {
            let ids: Vec<ChainId> = (0..16).map(|_| sends(other, 1)).collect();
            (ids[1], ids[15])
        });
        assert_eq!(table.cancel(other.0), Err(ChainError::Unknown), "its slot is vacant");
        assert_eq!(table.take(other.1), Err(ChainError::Unknown), "beyond the table");
        assert_eq!(table.context(other.1), Err(ChainError::Unknown));
        assert_eq!(table.refusal_count(ChainError::Unknown), 3);
        assert_eq!(table.live().collect::<Vec<_>>(), [id]);
    });
}

#[test]
fn an_occupied_slot_is_refused_and_its_chain_goes_on() {
    with_table(2, 4, |table| {
        let id = table.start_at(1, 5, &[Entry::bytes(10, 0)]).unwrap();
        assert_eq!(id.slot(), 1);
        let again = table.start_at(1, 6, &[Entry::bytes(20, 1)]);
        assert_eq!(again, Err(ChainError::Occupied));
        assert_eq!(table.refusal_count(ChainError::Occupied), 1);
        let other = table.start(8, &[Entry::plain(2)]).unwrap();
        assert_eq!((other.slot(), table.is_full()), (0, true));
        assert_eq!(table.start(9, &[Entry::plain(2)]), Err(ChainError::Full));
        let progress = feed(table, (id, 0), 10, 0);
        assert_eq!((progress.context, progress.event), (5, complete(10, Ok(()))));
        assert_eq!(
            table.start_at(1, 6, &[Entry::plain(0)]),
            Err(ChainError::Occupied),
            "not taken"
        );
        table.take(id).unwrap();
        assert!(table.start_at(1, 6, &[Entry::plain(0)]).is_ok());
    });
}

#[test]
fn a_record_of_a_log_has_its_result_by_entry() {
    with_table(4, 4, |table| {
        let log = |context| {
            let entries = [Entry::bytes(4096, 1), Entry::bytes(512, 2), Entry::plain(3)];
            table.start(context, &entries).unwrap()
        };
        let good = log(1);
        assert_eq!(table.result(good, 0), Ok(None));
        feed(table, (good, 0), 4096, 0);
        feed(table, (good, 1), 512, 0);
        assert_eq!(feed(table, (good, 2), 0, 0).event, complete(4608, Ok(())));
        table.take(good).unwrap();
        // The disk is full: a short write breaks the link, and nothing was made durable.
        let bad = log(2);
        feed(table, (bad, 0), 4096, 0);
        feed(table, (bad, 1), 100, 0);
        feed(table, (bad, 2), -ECANCELED, 0);
        let results = [0, 1, 2].map(|entry| table.result(bad, entry).unwrap());
        assert_eq!(results, [Some(4096), Some(100), Some(-ECANCELED)]);
        assert_eq!(table.result(bad, 3), Err(ChainError::NoEntry));
        assert_eq!(table.entry_context(bad, 2), Ok(3));
        let outcome = table.take(bad).unwrap();
        assert_eq!(outcome.result, Err(Cause { entry: 1, why: Why::Short { bytes: 100 } }));
        assert_eq!(outcome.remains, Remains::From { entry: 1, byte: 100 });
    });
}

#[test]
fn bytes_behind_a_gap_are_a_hole() {
    with_table(4, 4, |table| {
        // Without MSG_WAITALL, a short send does not break the link.
        let id = sends(table, 3);
        feed(table, (id, 0), 60, 0);
        feed(table, (id, 1), 100, 0);
        feed(table, (id, 2), -EPIPE, 0);
        let outcome = table.take(id).unwrap();
        let beyond = EntrySet::from_bits(0b010);
        assert_eq!(outcome.remains, Remains::Hole { entry: 0, byte: 60, beyond });
        assert_eq!(outcome.result, Err(Cause { entry: 0, why: Why::Short { bytes: 60 } }));
        assert_eq!(outcome.bytes, 160);
    });
}

#[test]
fn more_bytes_than_asked_for_end_the_entry_and_break_the_chain() {
    with_table(4, 4, |table| {
        let id = sends(table, 2);
        assert_eq!(feed(table, (id, 0), 101, 0).returned, Some(0), "the kernel is done with it");
        let overrun = Err(Cause { entry: 0, why: Why::Overrun { bytes: 101 } });
        assert_eq!(feed(table, (id, 1), 100, 0).event, complete(200, overrun));
        assert_eq!(
            (table.counts().overruns, table.take(id).unwrap().remains),
            (1, Remains::Unknown)
        );
    });
}

#[test]
fn the_longest_chain_of_the_longest_entries_is_counted_to_the_byte() {
    with_table(1, 64, |table| {
        let most = i32::MAX;
        let wanted = u32::try_from(most).unwrap();
        let entries: Vec<Entry> = (0..64).map(|i| Entry::bytes(wanted, i)).collect();
        let id = table.start(1, &entries).unwrap();
        let mut last = None;
        for entry in (0..64).rev() {
            last = Some(feed(table, (id, entry), most, F_MORE).event);
        }
        assert_eq!(last, Some(ChainEvent::AllOpsComplete));
        for entry in 0..64 {
            last = Some(feed(table, (id, entry), 0, F_NOTIF).event);
        }
        assert_eq!(last, Some(complete(64 * u64::from(wanted), Ok(()))));
        table.take(id).unwrap();
        for too_long in [wanted + 1, u32::MAX - 1, u32::MAX] {
            let refused = table.start(1, &[Entry::plain(0), Entry::bytes(too_long, 0)]);
            assert_eq!(refused, Err(ChainError::TooManyBytes), "{too_long}");
        }
        assert_eq!(table.start(1, &[Entry::plain(0); 65]), Err(ChainError::TooManyEntries));
        assert_eq!(table.start(1, &[]), Err(ChainError::NoEntries));
        assert!(table.is_empty());
    });
}

#[test]
fn what_is_left_when_the_ring_is_closed_is_said_entry_by_entry() {
    with_table(4, 4, |table| {
        let first = sends(table, 3);
        feed(table, (first, 0), 100, F_MORE);
        feed(table, (first, 1), 100, 0);
        let done = sends(table, 1);
        feed(table, (done, 0), 100, 0);
        let mut held = Vec::new();
        for id in table.live() {
            let abandoned = table.abandon(id, |entry, buffer| held.push((id, entry, buffer)));
            assert_eq!(abandoned.unwrap().context, 7);
        }
        assert_eq!(held, [(first, 0, 0), (first, 2, 2)]);
        assert!(table.is_empty());
        assert_eq!((table.counts().abandoned, table.counts().completed), (1, 1));
        let late = table.on_cqe(first.user_data(0).unwrap().as_raw(), 0, F_NOTIF);
        assert_eq!((late, table.fault_count(ChainFault::Stale)), (Err(ChainFault::Stale), 1));
    });
}

#[test]
fn a_chain_may_be_ended_and_begun_from_within_abandon() {
    with_table(1, 4, |table| {
        let id = sends(table, 2);
        let mut inner = Vec::new();
        let mut outer = Vec::new();
        let abandoned = table.abandon(id, |entry, buffer| {
            outer.push((entry, buffer));
            if entry == 0 {
                table.abandon(id, |entry, buffer| inner.push((entry, buffer))).unwrap();
                table.start(9, &[Entry::plain(50), Entry::plain(51)]).unwrap();
            }
        });
        assert!(abandoned.is_ok());
        assert_eq!(inner, [(0, 0), (1, 1)]);
        assert_eq!(outer, [(0, 0)], "what the inner call said is not said again, nor of another");
        assert_eq!((table.len(), table.counts().abandoned), (1, 1), "the new one lives");
        assert_eq!(table.live().next().map(|new| new.generation()), Some(id.generation().next()));
    });
}
