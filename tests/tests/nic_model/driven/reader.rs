//! Completions, as whoever polls gets them: out of the completion queue of the data plane, with all that they say copied out.

use spinwire_dataplane::cq::{
    Arrival, Compression, Cq, CqMemory, Cqe, EntryBytes, Inline, MiniFormat, Side, Syndrome,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::sync::AtomicU32;

/// A completion.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Sent { qpn: u32, counter: u16, bytes: u32, inline: Option<Vec<u8>> },
    Received { qpn: u32, counter: u16, arrival: Arrival, bytes: u32, inline: Option<Vec<u8>> },
    Failed { send: bool, qpn: u32, counter: u16, syndrome: Syndrome },
}

/// A completion queue.
pub(crate) struct Reader<'m>(Cq<'m, Device>);

impl<'m> Reader<'m> {
    pub(crate) fn new(
        lines: &'m [Line],
        record: &'m [AtomicU32; 2],
        (is_wide, is_compressed): (bool, bool),
    ) -> Self {
        let entry_bytes = if is_wide { EntryBytes::B128 } else { EntryBytes::B64 };
        let short = Compression::Basic(MiniFormat::Hash);
        let compression = if is_compressed { short } else { Compression::Off };
        let memory = CqMemory { lines, entry_bytes, record, register: None, cqn: 1 };
        Self(Cq::new(memory, compression, Device).unwrap())
    }

    pub(crate) fn poll(&self, budget: u32) -> Vec<Seen> {
        let mut all = Vec::new();
        let count = self.0.poll(budget, |cqe| all.push(seen(&cqe)));
        assert_eq!(usize::try_from(count).unwrap(), all.len());
        all
    }
}

fn copied(inline: Option<Inline<'_>>) -> Option<Vec<u8>> {
    inline.map(|inline| {
        let mut bytes = vec![0; inline.len()];
        assert_eq!(inline.copy_out(&mut bytes), bytes.len());
        bytes
    })
}

fn seen(cqe: &Cqe<'_>) -> Seen {
    match cqe {
        Cqe::Sent(sent) => Seen::Sent {
            qpn: sent.qpn(),
            counter: sent.wqe_counter(),
            bytes: sent.bytes(),
            inline: copied(sent.inline()),
        },
        Cqe::Received(received) => Seen::Received {
            qpn: received.qpn(),
            counter: received.wqe_counter(),
            arrival: received.arrival(),
            bytes: received.bytes(),
            inline: copied(received.inline()),
        },
        Cqe::Failed(failure) => Seen::Failed {
            send: failure.side == Side::Send,
            qpn: failure.qpn,
            counter: failure.wqe_counter,
            syndrome: failure.syndrome,
        },
        Cqe::Odd(odd) => panic!("the device writes nothing odd: {odd:?}"),
    }
}
