//! Somebody who connects to a port over simulated devices and speaks as it likes.

use core::cell::Cell;

use spinwire_dataplane::id::WrId;
use spinwire_dataplane::provider::Access;
use spinwire_dataplane::raw::line::{self, Line};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::verbs::{QueuePair, RecvRequest, RemotePlace, Segment, SendRequest, Verb};

use super::rdma::RdmaGround;
use super::rdma_fabric::{PAIR, Pair};
use crate::sim::fabric::{Fabric, SimQp};

/// Somebody who has connected to a port and speaks as it likes.
#[derive(Debug)]
pub struct Stranger<'m> {
    fabric: &'m Fabric,
    pair: SimQp<'m>,
    memory: &'m [Line],
    sent: Cell<u64>,
}

/// Bytes that a stranger sends at most, and the key of its memory.
const STRANGER_BYTES: usize = 2048;
const STRANGER_KEY: u32 = 9;

impl Stranger<'_> {
    /// Sends bytes, whatever they are.
    pub fn send(&self, bytes: &[u8]) {
        self.post(bytes, Verb::Send);
    }

    /// The same, with an immediate of the device's.
    pub fn send_beside(&self, bytes: &[u8], immediate: u32) {
        self.post(bytes, Verb::SendImm(immediate));
    }

    /// Writes nothing, with an immediate: that takes a receive.
    pub fn write_beside(&self, immediate: u32) {
        self.post(&[], Verb::WriteImm(immediate));
    }

    fn post(&self, bytes: &[u8], verb: Verb) {
        assert!(bytes.len() <= STRANGER_BYTES && line::copy_in(self.memory, 0, bytes));
        let address = u64::try_from(self.memory.as_ptr().expose_provenance()).unwrap();
        let length = u32::try_from(bytes.len()).unwrap();
        let segments = [Segment { address, length, key: STRANGER_KEY }];
        let segments = if bytes.is_empty() { &[][..] } else { &segments[..] };
        let number = self.sent.replace(self.sent.get() + 1);
        let request = SendRequest::new(WrId::from_raw(number), verb, segments);
        let nowhere = RemotePlace { address: 0, key: 0 };
        let request = if verb.is_one_sided() { request.at(nowhere) } else { request };
        if self.pair.post_send(&request).is_ok() {
            self.pair.ring_doorbell();
        }
        // It is read out of memory as it arrives.
        for _ in 0..100 {
            self.fabric.advance(3_000);
        }
    }

    /// The first bytes of what has come last.
    pub fn heard(&self, to: &mut [u8]) {
        assert!(line::copy_out(self.memory, STRANGER_BYTES, to));
    }

    /// Whether the connection is no more.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.fabric.is_dead(&self.pair)
    }
}

impl<'m> RdmaGround<'m, Fabric> {
    /// The device of a port says nothing any more of the queue pairs that it has.
    ///
    /// # Panics
    /// There is no such port.
    pub fn hush(&self, who: &str) {
        for (host, qp_num) in self.pairs_of(who) {
            self.network().mute_numbered(host, qp_num);
        }
    }

    /// The machine of a port loses its network: its queue pairs are no more, and nobody is told.
    ///
    /// # Panics
    /// There is no such port.
    pub fn vanish(&self, who: &str) {
        for (host, qp_num) in self.pairs_of(who) {
            self.network().destroy_numbered(host, qp_num);
        }
    }

    /// Somebody connects to the port of that name.
    ///
    /// # Panics
    /// There is no such port, or it takes no more connections.
    pub fn call(&'m self, bump: &Bump<'m>, to: &str) -> Stranger<'m> {
        let fabric = self.network();
        let host = fabric.add_host();
        let memory: &'m [Line] =
            bump.slice_with(STRANGER_BYTES / 32, |_| Line::zeroed()).expect("room");
        let start = u64::try_from(memory.as_ptr().expose_provenance()).unwrap();
        let range = (start, u64::try_from(STRANGER_BYTES * 2).unwrap());
        fabric.register(host, STRANGER_KEY, range, Access::NONE);
        let own = Cell::new(None);
        self.adopt(to, |there| {
            let (pair, theirs) = fabric.connect_hosts([(host, 0), (there, 0)], PAIR);
            for number in 0..256 {
                let address = start + u64::try_from(STRANGER_BYTES).unwrap();
                let length = u32::try_from(STRANGER_BYTES).unwrap();
                let segments = [Segment { address, length, key: STRANGER_KEY }];
                let receive = RecvRequest { wr_id: WrId::from_raw(number), segments: &segments };
                pair.post_recv(&receive).expect("room");
            }
            pair.ring_recv_doorbell();
            own.set(Some(pair));
            Pair { fabric, inner: theirs }
        });
        let pair = own.take().expect("made above");
        Stranger { fabric, pair, memory, sent: Cell::new(0) }
    }
}
