//! Ports over libfabric, all in one thread, each with a domain of its own, on the providers that need no hardware.
//!
//! To kill a port is to close it: whatever dies of a process, the kernel closes for it, and a port of libfabric says no goodbye of its own.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Generation, Name, OpTag, WrId};
use spinwire_dataplane::provider::{
    CancelError, Caps, Cqe, EndpointType, Event, ExposeWr, Info, KeepsPosted, OneSidedWr, Payload,
    Provider, Published, RecvPartsWr, RecvWr, RemoteRegion, Select, SendPartsWr, SendWr, Source,
    Use, Waiting,
};
use spinwire_dataplane::raw::line::Line;
use spinwire_dataplane::raw::loan::{LoanPool, Sge};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_hostshim::libfabric::{Names, OfiConfig, OfiPort};

use super::{Rig, Sizes, World, run};
use crate::overdue;

/// A provider of libfabric, as the suite sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OfiChoice {
    /// As `fi_info -p` takes it.
    pub provider: &'static str,
    /// What the endpoints are.
    pub endpoint_type: EndpointType,
    /// Where they are to be.
    pub node: Option<&'static str>,
}

impl OfiChoice {
    /// Of that provider and type, on the loopback interface where it has interfaces.
    #[must_use]
    pub const fn new(provider: &'static str, endpoint_type: EndpointType) -> Self {
        let is_shm = matches!(provider.as_bytes(), b"shm");
        Self { provider, endpoint_type, node: if is_shm { None } else { Some("127.0.0.1") } }
    }

    /// The same at that address.
    #[must_use]
    pub const fn at(self, node: &'static str) -> Self {
        Self { node: Some(node), ..self }
    }
}

thread_local! {
    /// Which provider the cases of this thread run on. So all of them are compiled once.
    static CHOICE: Cell<OfiChoice> = const { Cell::new(OfiChoice::new("tcp", EndpointType::Rdm)) };
}

/// Runs a case on a fresh world of each of these.
#[expect(clippy::print_stderr, reason = "whoever fails says on which")]
pub fn run_on(choices: &[OfiChoice], case: impl Fn(&World<'_, Ofi>)) {
    for choice in choices {
        eprintln!("on {} of type {}", choice.provider, choice.endpoint_type);
        CHOICE.set(*choice);
        let _watched = overdue::watch(&format!("{} {}", choice.provider, choice.endpoint_type));
        run(choice.endpoint_type, Sizes::default(), &case);
    }
}

/// Ports over a provider of libfabric: see [`run_on`].
#[derive(Debug)]
pub struct Ofi;

/// Who is where, and the ports that are open.
#[derive(Debug, Default)]
pub struct OfiGround<'m> {
    /// Where everybody is.
    pub names: Names,
    open: RefCell<BTreeMap<String, *mut OfiPort<'m>>>,
}

/// A port that somebody else can close, and that can be met before there is anything to say: libfabric opens connections with the first
/// message. That is a greeting here, with a tag of its own, for which each port has a receive that nobody sees.
pub struct OfiEnd<'m> {
    port: ManuallyDrop<Box<OfiPort<'m>>>,
    name: Name,
    ground: &'m OfiGround<'m>,
    /// What it says of itself, without that receive.
    info: Info,
    greeting: Option<Sge>,
    met: RefCell<BTreeSet<(u32, u32)>>,
    idle: Cell<u32>,
}

impl fmt::Debug for OfiEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfiEnd").field("name", &self.name).finish_non_exhaustive()
    }
}

/// In the time of the worlds, 100 ns a turn.
const PATIENCE: Nanos = Nanos::new(200_000);
/// How long it sleeps after turns in which nothing has come.
const NAP: Duration = Duration::from_micros(20);
/// The tag of greetings.
const GREETING: u64 = 0x5350_494E_5749_5245;
/// The id of the receive for them.
const GREETED: WrId = WrId::new(OpTag::Accept, Generation::FIRST, 0);

impl<'m> OfiEnd<'m> {
    /// The port itself.
    #[must_use]
    pub fn port(&self) -> &OfiPort<'m> {
        &self.port
    }

    fn await_greeting(&self) {
        let Some(sge) = self.greeting else { return };
        let select = Select::Tagged { tag: GREETING, ignore: 0 };
        let (from, buffer) = (Source::Any, Use::Single);
        self.port.post_recv(&RecvWr { wr_id: GREETED, sge, from, select, buffer }).unwrap();
    }

    fn greet(&self, peer: Addr) -> bool {
        if self.greeting.is_none() {
            return self.port.reach(peer) == Ok(true);
        }
        let key = (peer.slot(), peer.generation().as_raw());
        let mut met = self.met.borrow_mut();
        let payload = Payload::Inject(&[]);
        let wr = SendWr { to: peer, payload, tag: Some(GREETING), immediate: None };
        if !met.contains(&key) && self.port.post_send(&wr).is_ok() {
            self.port.ring_doorbell();
            met.insert(key);
        }
        met.contains(&key)
    }
}

// SAFETY: it hands everything on to its one port; the receive for greetings has memory of its own.
#[expect(unsafe_code, reason = "a wrapper of a port")]
unsafe impl KeepsPosted for OfiEnd<'_> {}

impl Drop for OfiEnd<'_> {
    #[expect(unsafe_code, reason = "who kills a port closes it while its owner has it")]
    fn drop(&mut self) {
        self.ground.open.borrow_mut().remove(self.name.as_str());
        self.ground.names.forget(&self.name);
        // SAFETY: not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.port) };
    }
}

impl Provider for OfiEnd<'_> {
    fn info(&self) -> &Info {
        &self.info
    }
    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        self.port.connect(name)
    }
    fn name_of(&self, addr: Addr) -> Result<Option<Name>, Misuse> {
        self.port.name_of(addr)
    }
    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.port.disconnect(addr)
    }
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.port.post_send(wr)
    }
    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        self.port.post_send_parts(wr)
    }
    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        self.port.post_recv_parts(wr)
    }
    fn post_one_sided(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        self.port.post_one_sided(wr)
    }
    fn expose(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        self.port.expose(wr)
    }
    fn withdraw(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.port.withdraw(wr_id)
    }
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.port.post_recv(wr)
    }
    fn ring_doorbell(&self) -> Published {
        self.port.ring_doorbell()
    }
    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        let before = out.len();
        self.port.poll_cq(now, out);
        let greeted = out.iter().position(|cqe| cqe.wr_id == GREETED);
        if let Some(at) = greeted {
            out.remove(at);
            self.await_greeting();
        }
        // Cases count turns; connections and the threads of some providers take time.
        self.idle.set(if out.len() > before { 0 } else { self.idle.get() + 1 });
        if self.idle.get() >= 3 {
            std::thread::sleep(NAP);
        }
    }
    fn poll_event(&self) -> Option<Event> {
        self.port.poll_event()
    }
    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.port.cancel(wr_id)
    }
    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.port.peek(from, select)
    }
}

/// The range of a loan that nobody gets back while the world lives.
#[expect(unsafe_code, reason = "a receive that is no endpoint's")]
fn forever<'m>(pool: &'m LoanPool<'m>) -> Sge {
    let mut loan = ManuallyDrop::new(pool.lend().unwrap());
    // SAFETY: the memory is the world's, outlives the port, and nobody else has the loan.
    unsafe { Sge::from_raw(NonNull::from(loan.room()).cast(), 64) }
}

impl Rig for Ofi {
    type Ground<'m> = OfiGround<'m>;
    type Port<'m> = OfiEnd<'m>;
    const TYPES: &'static [EndpointType] = &[];
    const SPILLS: bool = false;
    const MEETS: bool = true;
    const FENCES: bool = false;
    const BOUNDS: bool = false;
    const LACKS: Caps = Caps::MULTI_RECV.with(Caps::PEEK);

    fn lay<'m>(_lines: &'m [Line], _bump: &Bump<'m>, _sizes: &Sizes) -> OfiGround<'m> {
        OfiGround::default()
    }

    fn open<'m>(
        ground: &'m OfiGround<'m>,
        bump: &Bump<'m>,
        (name, endpoint_type): (&Name, EndpointType),
        sizes: &Sizes,
    ) -> Result<OfiEnd<'m>, String> {
        if ground.open.borrow().contains_key(name.as_str()) {
            return Err("the name is taken".into());
        }
        if ground.open.borrow().len() == usize::try_from(sizes.endpoints).unwrap() {
            return Err("there are too many".into());
        }
        let OfiChoice { provider, node, .. } = CHOICE.get();
        let greets = endpoint_type == EndpointType::Rdm;
        let config = OfiConfig {
            provider: Some(provider.into()),
            endpoint_type,
            node: node.map(Into::into),
            peers_max: sizes.peers_max,
            send_depth: sizes.send_depth,
            recv_depth: sizes.recv_depth + u32::from(greets),
            patience: PATIENCE,
            accept_faults: true,
            one_sided: true,
            message_bytes_max: sizes.message_bytes_max,
            copies_max: 16,
            ..OfiConfig::default()
        };
        let port = OfiPort::open(bump, &ground.names, name, &config).map_err(|e| e.to_string())?;
        ground.names.introduce(name, port.address().map_err(|e| e.to_string())?);
        let mut port = Box::new(port);
        ground.open.borrow_mut().insert(name.to_string(), &raw mut *port);
        let mut info = *port.info();
        info.limits.recv_depth -= u32::from(greets);
        let pool = LoanPool::place(bump, 1, 64).map_err(|e| e.to_string())?;
        let end = OfiEnd {
            port: ManuallyDrop::new(port),
            name: *name,
            ground,
            info,
            greeting: greets.then(|| forever(pool)),
            met: RefCell::default(),
            idle: Cell::new(0),
        };
        end.await_greeting();
        Ok(end)
    }

    fn has_met(port: &OfiEnd<'_>, peer: Addr) -> bool {
        port.greet(peer)
    }

    #[expect(unsafe_code, reason = "the port is forgotten, as that of a process that is gone")]
    fn kill<'m>(ground: &'m OfiGround<'m>, who: &Name) {
        let port = ground.open.borrow_mut().remove(who.as_str()).expect("there is such a port");
        ground.names.forget(who);
        // SAFETY: the port is there until it is dropped, which takes it out of the list; it is forgotten, and not used any more.
        drop(unsafe { Box::from_raw(port) });
    }

    fn leftovers<'m>(ground: &'m OfiGround<'m>) -> String {
        ground.open.borrow().keys().cloned().collect::<Vec<_>>().join(", ")
    }
}
