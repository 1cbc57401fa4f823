//! Sections of a page that is written while others read it.

use spinwire_dataplane::poll::{ReadError, Section};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::sync::Ordering;

#[test]
fn a_copy_is_taken_only_if_nothing_was_written_meanwhile() {
    let lines = [Line::zeroed(), Line::zeroed()];
    let section = Section::new(&lines).unwrap();
    section.write(|words| words.set(9, 70));
    let mut copied = 0;
    assert_eq!(section.read(1, |words| copied = words.get(9)), Ok(()));
    assert_eq!(copied, 70);
    // Another writing begins and ends within the copy.
    let mut attempts = 0;
    let torn = section.read(5, |words| {
        attempts += 1;
        section.write(|other| other.set(9, attempts));
        copied = words.get(9);
    });
    assert_eq!((torn, attempts), (Err(ReadError::Torn), 5));
    // It succeeds as soon as one attempt is left alone.
    let mut attempts = 0;
    let read = section.read(5, |words| {
        attempts += 1;
        if attempts < 3 {
            section.write(|other| other.set(9, attempts + 100));
        }
        copied = words.get(9);
    });
    assert_eq!((read, attempts, copied), (Ok(()), 3, 102));
}

#[test]
fn an_open_section_is_busy_and_its_writers_successor_closes_it() {
    let lines = [Line::zeroed()];
    let section = Section::new(&lines).unwrap();
    let inside = section.write(|words| {
        words.set(1, 5);
        let mut untouched = true;
        let read = section.read(3, |_| untouched = false);
        assert!(untouched, "nothing is copied out of an open section");
        read
    });
    assert_eq!(inside, Err(ReadError::Busy));
    // A writer that died in the middle.
    lines[0].words()[0].store(7, Ordering::Relaxed);
    assert_eq!(section.read(3, |_| ()), Err(ReadError::Busy));
    let mut last = 0;
    assert!(!section.read_unsettled(|words| last = words.get(1)));
    assert_eq!(last, 5);
    section.write(|words| words.set(1, 6));
    assert_eq!(section.read(1, |words| last = words.get(1)), Ok(()));
    assert_eq!((last, lines[0].words()[0].load(Ordering::Relaxed)), (6, 8));
    assert!(section.read_unsettled(|_| ()));
    assert_eq!(section.read(0, |_| ()), Err(ReadError::Busy));
}

#[test]
fn words_outside_are_zero_and_cannot_be_written() {
    let lines = [Line::zeroed(), Line::zeroed()];
    let section = Section::new(&lines[..1]).unwrap();
    section.write(|words| {
        words.set(8, 1);
        words.set(usize::MAX, 1);
    });
    assert_eq!(lines[1].words()[0].load(Ordering::Relaxed), 0);
    section.read(1, |words| assert_eq!(words.get(8) + words.get(usize::MAX), 0)).unwrap();
    assert!(Section::new(&[]).is_none());
}

/// Two threads: every copy is of one writing.
#[test]
fn no_copy_mixes_two_writings() {
    let lines: Vec<_> = (0..4).map(|_| Line::zeroed()).collect();
    let section = Section::new(&lines).unwrap();
    const WRITINGS: u64 = 20_000;
    let (mut good, mut refused) = (0u64, 0u64);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..=WRITINGS {
                section.write(|words| (1..32).for_each(|index| words.set(index, round)));
            }
        });
        loop {
            let last = writer.is_finished();
            let mut copy = [0; 32];
            match section.read(10, |words| {
                copy.iter_mut().enumerate().for_each(|(index, word)| *word = words.get(index));
            }) {
                Ok(()) => {
                    good += 1;
                    assert!(copy[1..].iter().all(|word| *word == copy[1]), "{copy:?}");
                    assert_eq!(copy[0], 2 * copy[1]);
                    if last {
                        assert_eq!(copy[1], WRITINGS);
                        break;
                    }
                }
                Err(_) => refused += 1,
            }
        }
    });
    assert!(good > 0, "{refused} refused");
}
