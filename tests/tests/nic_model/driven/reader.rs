//! Completions as they come out of the completion queue of the data plane, without dispatch.

use spinwire_dataplane::cq::{Compression, Cq, CqMemory, Cqe, EntryBytes, MiniFormat, Side};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::sync::AtomicU32;
use spinwire_tests::sim::nic::{Counters, Short};

/// A completion.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Sent { counter: u16 },
    Received { counter: u16, bytes: u32 },
    Failed { send: bool },
}

/// A completion queue of 64 or 128 bytes an entry, which may have short ones.
pub(crate) fn open<'m>(
    lines: &'m [Line],
    record: &'m [AtomicU32; 2],
    (is_wide, short): (bool, Short),
) -> Cq<'m, Device> {
    let entry_bytes = if is_wide { EntryBytes::B128 } else { EntryBytes::B64 };
    let compression = match short {
        Short::Never => Compression::Off,
        Short::Basic(Counters::Counted) => Compression::Basic(MiniFormat::Hash),
        Short::Basic(Counters::Told) => Compression::Basic(MiniFormat::ChecksumStride),
        Short::Enhanced(Counters::Counted) => Compression::Enhanced(MiniFormat::Checksum),
        Short::Enhanced(Counters::Told) => Compression::Enhanced(MiniFormat::ChecksumStride),
    };
    let memory = CqMemory { lines, entry_bytes, record, register: None, cqn: 1 };
    Cq::new(memory, compression, Device).unwrap()
}

/// A completion queue without dispatch.
pub(crate) struct Reader<'m>(Cq<'m, Device>);

impl<'m> Reader<'m> {
    pub(crate) fn new(lines: &'m [Line], record: &'m [AtomicU32; 2]) -> Self {
        Self(open(lines, record, (false, Short::Never)))
    }

    pub(crate) fn poll(&self, budget: u32) -> Vec<Seen> {
        let mut all = Vec::new();
        let count = self.0.poll(budget, |cqe| all.push(seen(&cqe)));
        assert_eq!(usize::try_from(count).unwrap(), all.len());
        all
    }
}

fn seen(cqe: &Cqe<'_>) -> Seen {
    match cqe {
        Cqe::Sent(sent) => Seen::Sent { counter: sent.wqe_counter() },
        Cqe::Received(received) => {
            Seen::Received { counter: received.wqe_counter(), bytes: received.bytes() }
        }
        Cqe::Failed(failure) => Seen::Failed { send: failure.side == Side::Send },
        Cqe::Odd(odd) => panic!("the device writes nothing odd: {odd:?}"),
    }
}
