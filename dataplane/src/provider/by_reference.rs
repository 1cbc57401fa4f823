//! A reference to a provider is one.

use heapless::VecView;

use super::{
    CancelError, Cqe, Event, Info, ParcelWr, Provider, Published, RecvWr, Select, SendWr, Sight,
    Source, Waiting,
};
use crate::error::{Misuse, PostError};
use crate::id::{Addr, Name, WrId};
use crate::time::Instant;

impl<P: Provider + ?Sized> Provider for &P {
    fn info(&self) -> &Info {
        (**self).info()
    }
    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        (**self).connect(name)
    }
    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        (**self).disconnect(addr)
    }
    #[inline(always)]
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        (**self).post_send(wr)
    }
    fn post_parcel(&self, wr: &ParcelWr) -> Result<u8, PostError> {
        (**self).post_parcel(wr)
    }
    fn is_settled(&self, to: Addr, number: u8) -> bool {
        (**self).is_settled(to, number)
    }
    fn settle(&self, source: Addr, numbers: u64) {
        (**self).settle(source, numbers);
    }
    #[inline(always)]
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        (**self).post_recv(wr)
    }
    #[inline(always)]
    fn ring_doorbell(&self) -> Published {
        (**self).ring_doorbell()
    }
    #[inline(always)]
    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        (**self).poll_cq(now, out);
    }
    #[inline(always)]
    fn look(&self) -> Sight {
        (**self).look()
    }
    #[inline(always)]
    fn take_ready(&self) -> Option<Cqe> {
        (**self).take_ready()
    }
    fn poll_event(&self) -> Option<Event> {
        (**self).poll_event()
    }
    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        (**self).cancel(wr_id)
    }
    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        (**self).peek(from, select)
    }
    fn poll_at(&self) -> Option<Instant> {
        (**self).poll_at()
    }
}
