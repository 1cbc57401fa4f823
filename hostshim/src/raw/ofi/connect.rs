//! Connections of endpoints of type MSG: `fi_cm(3)`, and the events about them.

use core::ptr;
use std::rc::Rc;

use spinwire_ofi_sys as sys;

use super::{Active, Answer, Events, Fabric, Failed, Handle, Offer, answer, name_of};

/// Bytes that come with a request to connect, at most.
const DATA_BYTES_MAX: usize = 256;
/// The same in words, with the head of the entry before it.
const ENTRY_WORDS: usize = DATA_BYTES_MAX / 8 + 2;

/// A passive endpoint, `struct fid_pep`, that listens.
pub(crate) struct Passive {
    handle: Handle<sys::fid_pep>,
    _events: Rc<Events>,
}

impl core::fmt::Debug for Passive {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Passive").finish_non_exhaustive()
    }
}

impl Passive {
    /// Listens at the address of the offer.
    pub(crate) fn listen(fabric: &Rc<Fabric>, offer: &Offer, events: &Rc<Events>) -> Answer<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the offer is of that fabric.
        let code = unsafe {
            sys::fi_passive_ep(fabric.handle.raw(), offer.raw(), &raw mut raw, ptr::null_mut())
        };
        let handle = Handle::made("fi_passive_ep", code, raw)?;
        // SAFETY: both live; this holds the events.
        let code = unsafe { sys::fi_pep_bind(handle.raw(), events.handle.fid(), 0) };
        answer("fi_pep_bind", code)?;
        // SAFETY: a live endpoint that is bound.
        answer("fi_listen", unsafe { sys::fi_listen(handle.raw()) })?;
        Ok(Self { handle, _events: Rc::clone(events) })
    }

    /// Where it listens.
    pub(crate) fn name(&self) -> Answer<Vec<u8>> {
        name_of(self.handle.fid())
    }

    /// Does not take the connection that `offer` came with.
    pub(crate) fn reject(&self, offer: &Offer) -> Answer<()> {
        let request = offer.info().handle;
        // SAFETY: the handle of a request that was not answered yet.
        let code = unsafe { sys::fi_reject(self.handle.raw(), request, ptr::null(), 0) };
        answer("fi_reject", code)
    }
}

impl Active {
    /// Begins to connect. `hello` goes with it.
    pub(crate) fn connect(&self, address: &[u8], hello: &[u8]) -> Answer<()> {
        let hello = hello.get(..DATA_BYTES_MAX).unwrap_or(hello);
        // SAFETY: an address of the format of this endpoint, and a text; both are read before this returns.
        let code = unsafe {
            sys::fi_connect(
                self.handle.raw(),
                address.as_ptr().cast(),
                hello.as_ptr().cast(),
                hello.len(),
            )
        };
        answer("fi_connect", code)
    }

    /// Takes the connection that the offer came with of which this was opened.
    pub(crate) fn accept(&self) -> Answer<()> {
        // SAFETY: a live endpoint.
        answer("fi_accept", unsafe { sys::fi_accept(self.handle.raw(), ptr::null(), 0) })
    }
}

/// What has happened to connections.
#[derive(Debug)]
pub(crate) enum Told {
    /// Somebody wants one.
    Request {
        /// What the endpoint for it is opened of.
        offer: Offer,
        /// What came with it.
        hello: Vec<u8>,
    },
    /// The one of that endpoint is up.
    Connected(usize),
    /// The other end of that one is gone.
    Shutdown(usize),
    /// That one was refused, or has failed: with a number of `fi_errno(3)`.
    Failed(usize, i32),
    /// Something that is none of this.
    Other,
}

impl Events {
    /// The next event, if any.
    pub(crate) fn read(&self) -> Answer<Option<Told>> {
        let mut words = [0_u64; ENTRY_WORDS];
        let mut event = 0;
        let bytes = size_of_val(&words);
        // SAFETY: as much room as is said.
        let read = unsafe {
            sys::fi_eq_read(self.handle.raw(), &raw mut event, words.as_mut_ptr().cast(), bytes, 0)
        };
        if let Ok(length) = usize::try_from(read) {
            return told(event, &words, length).map(Some);
        }
        match super::number(read) {
            libc::EAGAIN => Ok(None),
            code if u32::try_from(code) == Ok(sys::FI_EAVAIL) => self.failure().map(Some),
            code => Err(Failed { call: "fi_eq_read", code }),
        }
    }

    fn failure(&self) -> Answer<Told> {
        // SAFETY: numbers and pointers; all bytes zero is such an entry.
        let mut entry: sys::fi_eq_err_entry = unsafe { core::mem::zeroed() };
        // SAFETY: room for one entry, and none for provider's data.
        let read = unsafe { sys::fi_eq_readerr(self.handle.raw(), &raw mut entry, 0) };
        if read < 0 {
            return Err(Failed { call: "fi_eq_readerr", code: super::number(read) });
        }
        Ok(Told::Failed(entry.fid.addr(), entry.err))
    }
}

fn told(event: u32, words: &[u64; ENTRY_WORDS], length: usize) -> Answer<Told> {
    let [fid, info, ..] = *words;
    let fid = usize::try_from(fid).unwrap_or(0);
    Ok(match event {
        sys::FI_CONNREQ => {
            let info = ptr::with_exposed_provenance_mut(usize::try_from(info).unwrap_or(0));
            let offer = Offer::made("fi_eq_read", info)?;
            // In the order in which the library has put them into memory.
            let mut hello: Vec<u8> =
                words.iter().skip(2).flat_map(|word| word.to_ne_bytes()).collect();
            hello.truncate(length.saturating_sub(16));
            Told::Request { offer, hello }
        }
        sys::FI_CONNECTED => Told::Connected(fid),
        sys::FI_SHUTDOWN => Told::Shutdown(fid),
        _ => Told::Other,
    })
}
