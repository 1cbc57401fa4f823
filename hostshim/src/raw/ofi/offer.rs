//! What the providers offer: `fi_getinfo(3)`.

use core::ffi::{CStr, c_char};
use core::fmt;
use core::ptr::{self, NonNull};
use std::ffi::CString;

use spinwire_ofi_sys as sys;

use super::load::library;
use super::{Answer, Failed, VERSION, answer};

/// What is asked for. All that is 0 or `None` may be anything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// `enum fi_ep_type`.
    pub(crate) endpoint_type: u32,
    pub(crate) caps: u64,
    /// `enum fi_order` of sends after sends.
    pub(crate) in_order: bool,
    /// Messages move when the queue is read, and by no thread of the library's (`FI_PROGRESS_MANUAL`).
    pub(crate) manual: bool,
    pub(crate) provider: Option<&'a str>,
    /// The address to be at, as a name service or the provider would take it.
    pub(crate) node: Option<&'a str>,
    pub(crate) service: Option<&'a str>,
}

/// One `struct fi_info`, and nothing behind it. The structures that it points to are there, as the library made them.
pub(crate) struct Offer(NonNull<sys::fi_info>);

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("provider", &self.provider()).finish_non_exhaustive()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        free(self.0.as_ptr());
    }
}

/// Frees a list that the library has made, once.
fn free(list: *mut sys::fi_info) {
    if let Ok(library) = library() {
        // SAFETY: the library's, and freed by its owner alone.
        unsafe { (library.freeinfo)(list) };
    }
}

fn text(of: Option<&str>) -> Answer<Option<CString>> {
    let refused = |_zero_inside| Failed { call: "fi_getinfo", code: libc::EINVAL };
    of.map(CString::new).transpose().map_err(refused)
}

fn pointer(of: Option<&CString>) -> *const c_char {
    of.map_or(ptr::null(), |text| text.as_ptr())
}

impl Offer {
    /// All that is offered of what is wanted, in the library's order: the best first.
    pub(crate) fn list(wanted: &Wanted<'_>) -> Answer<Vec<Self>> {
        let hints = Self::hints(wanted)?;
        let (node, service) = (text(wanted.node)?, text(wanted.service)?);
        let flags = if node.is_some() || service.is_some() { sys::FI_SOURCE } else { 0 };
        let mut first = ptr::null_mut();
        let getinfo = library()?.getinfo;
        // SAFETY: texts and hints live through the call, and are only read.
        let code = unsafe {
            getinfo(
                VERSION,
                pointer(node.as_ref()),
                pointer(service.as_ref()),
                flags,
                hints.0.as_ptr(),
                &raw mut first,
            )
        };
        answer("fi_getinfo", code)?;
        let mut all = Vec::new();
        let mut next = first;
        while let Some(each) = NonNull::new(next) {
            all.push(Self::copy_of(each));
            // SAFETY: an entry of the list that the library gave.
            next = unsafe { each.as_ref() }.next;
        }
        // All of it was copied.
        free(first);
        all.into_iter().collect()
    }

    /// A copy of an entry, without what comes behind it.
    fn copy_of(entry: NonNull<sys::fi_info>) -> Answer<Self> {
        let duplicate = library()?.dupinfo;
        // SAFETY: a live entry.
        let copy = unsafe { duplicate(entry.as_ptr()) };
        Self::made("fi_dupinfo", copy)
    }

    /// Takes over a structure that the library has made.
    pub(super) fn made(call: &'static str, raw: *mut sys::fi_info) -> Answer<Self> {
        NonNull::new(raw).map(Self).ok_or(Failed { call, code: libc::ENOMEM })
    }

    /// The same, of an endpoint that is to connect to that address: some providers want to know it when the endpoint is opened.
    pub(crate) fn towards(&self, address: &[u8]) -> Answer<Self> {
        let copy = Self::copy_of(self.0)?;
        // SAFETY: any number of bytes may be asked for.
        let place = NonNull::new(unsafe { libc::malloc(address.len().max(1)) });
        let place = place.ok_or(Failed { call: "malloc", code: libc::ENOMEM })?;
        let bytes = NonNull::from(address).cast::<u8>();
        // SAFETY: as many bytes, which are nobody else's.
        unsafe { place.cast::<u8>().copy_from_nonoverlapping(bytes, address.len()) };
        // SAFETY: the structure is this function's alone.
        let info = unsafe { &mut *copy.0.as_ptr() };
        // SAFETY: none, or one of the structure alone, which is freed with it by the same function.
        unsafe { libc::free(info.dest_addr) };
        (info.dest_addr, info.dest_addrlen) = (place.as_ptr(), address.len());
        Ok(copy)
    }

    fn hints(wanted: &Wanted<'_>) -> Answer<Self> {
        let duplicate = library()?.dupinfo;
        // SAFETY: what there is of nothing is an empty structure: `fi_allocinfo` of the headers.
        let raw = unsafe { duplicate(ptr::null()) };
        let hints = Self::made("fi_allocinfo", raw)?;
        let provider = text(wanted.provider)?;
        // SAFETY: the structure is this function's alone.
        let info = unsafe { &mut *hints.0.as_ptr() };
        info.caps = wanted.caps;
        info.mode = sys::FI_CONTEXT | sys::FI_CONTEXT2;
        // SAFETY: made with the structure, and its alone; so are the next ones.
        let endpoint = unsafe { &mut *info.ep_attr };
        endpoint.type_ = wanted.endpoint_type;
        // SAFETY: as above.
        let domain = unsafe { &mut *info.domain_attr };
        domain.threading = sys::FI_THREAD_DOMAIN;
        if wanted.manual {
            domain.data_progress = sys::FI_PROGRESS_MANUAL;
        }
        domain.mr_mode = i32::try_from(
            sys::FI_MR_LOCAL | sys::FI_MR_VIRT_ADDR | sys::FI_MR_ALLOCATED | sys::FI_MR_PROV_KEY,
        )
        .unwrap_or(0);
        if wanted.in_order {
            // SAFETY: as above.
            let transmit = unsafe { &mut *info.tx_attr };
            transmit.msg_order = u64::from(sys::FI_ORDER_SAS);
            // SAFETY: as above.
            let receive = unsafe { &mut *info.rx_attr };
            receive.msg_order = u64::from(sys::FI_ORDER_SAS);
        }
        if let Some(provider) = &provider {
            // SAFETY: as above.
            let fabric = unsafe { &mut *info.fabric_attr };
            // SAFETY: a text; the copy is freed with the structure.
            fabric.prov_name = unsafe { libc::strdup(provider.as_ptr()) };
        }
        Ok(hints)
    }

    pub(super) const fn raw(&self) -> *mut sys::fi_info {
        self.0.as_ptr()
    }

    pub(super) const fn fabric_attributes(&self) -> *mut sys::fi_fabric_attr {
        self.info().fabric_attr
    }

    /// The structure.
    pub(crate) const fn info(&self) -> &sys::fi_info {
        // SAFETY: live, and not changed while it is borrowed.
        unsafe { self.0.as_ref() }
    }

    /// Attributes of sending.
    pub(crate) const fn transmit(&self) -> &sys::fi_tx_attr {
        // SAFETY: the library fills all of them in.
        unsafe { &*self.info().tx_attr }
    }

    /// Attributes of receiving.
    pub(crate) const fn receive(&self) -> &sys::fi_rx_attr {
        // SAFETY: likewise.
        unsafe { &*self.info().rx_attr }
    }

    /// Attributes of the endpoint.
    pub(crate) const fn endpoint(&self) -> &sys::fi_ep_attr {
        // SAFETY: likewise.
        unsafe { &*self.info().ep_attr }
    }

    /// Attributes of the domain.
    pub(crate) const fn domain(&self) -> &sys::fi_domain_attr {
        // SAFETY: likewise.
        unsafe { &*self.info().domain_attr }
    }

    /// The name of the provider, as `FI_PROVIDER` and `fi_info -p` take it.
    pub(crate) fn provider(&self) -> String {
        // SAFETY: likewise.
        text_at(unsafe { &*self.info().fabric_attr }.prov_name)
    }

    /// The name of the fabric.
    pub(crate) fn fabric(&self) -> String {
        // SAFETY: likewise.
        text_at(unsafe { &*self.info().fabric_attr }.name)
    }

    /// The name of the domain.
    pub(crate) fn domain_name(&self) -> String {
        text_at(self.domain().name)
    }
}

fn text_at(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the library's texts end with a zero and live as long as their structure.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
