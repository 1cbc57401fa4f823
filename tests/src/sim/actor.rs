//! An actor: a service that posts, sends, comes and goes as the dice fall, and reports everything to the ledger.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::msg::{Kind, RecvFrom, SendTo};
use spinwire_dataplane::pool::Pool;
use spinwire_dataplane::provider::{Caps, EndpointType, Event};

use super::ledger::{Checked, Ledger, Life, Violation, Wanted, ensure};
use super::lending::{Lending, Warehouse};
use crate::conformance::{Node, Rig, World};
use crate::rng::Rng;

/// Receives of either kind that take anything and are kept posted in the end.
const EACH: usize = 4;

/// How messages look in this run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taste {
    pub(super) length_max: usize,
    pub(super) tagged_percent: u64,
    pub(super) posted_percent: u64,
    pub(super) burst_max: usize,
    /// Of those without bytes: buffers of a pool, where the provider has them.
    pub(super) parcel_percent: u64,
    /// Receives that a service keeps posted in quiet times.
    pub(super) receives: usize,
}

/// One of the actors.
pub(super) struct Actor<'m, R: Rig> {
    pub(super) name: Name,
    node: Option<Node<'m, R>>,
    pub(super) stay: usize,
    addrs: Vec<Addr>,
    /// Those whose end was reported.
    past: Vec<Addr>,
    /// Posted receives, and for whom alone.
    cancellable: Vec<(WrId, Option<Addr>)>,
    next_context: u64,
    /// Its buffers; there while the node is.
    lending: Option<Lending<'m>>,
    /// Its handle, where it was killed and nobody took its buffers back.
    bereft: Option<&'static Pool<'static>>,
    /// Killed, and nobody has taken note.
    pub(super) unburied: bool,
    /// Somebody has, but did not take back what it held.
    pub(super) marked: bool,
}

impl<'m, R: Rig> Actor<'m, R> {
    pub(super) const fn new(name: Name) -> Self {
        Self {
            name,
            node: None,
            stay: usize::MAX,
            addrs: Vec::new(),
            past: Vec::new(),
            cancellable: Vec::new(),
            next_context: 0,
            lending: None,
            bereft: None,
            unburied: false,
            marked: false,
        }
    }

    pub(super) const fn is_there(&self) -> bool {
        self.node.is_some()
    }

    /// Opens an endpoint under the old name, as a process that was started again.
    pub(super) fn start(
        &mut self,
        world: &World<'m, R>,
        warehouse: &Warehouse,
        ledger: &mut Ledger,
    ) {
        if self.is_there() || self.unburied {
            return;
        }
        self.lending = Some(Lending::new(warehouse));
        self.node = Some(world.node(self.name.as_str()));
        self.stay = ledger.begin();
        ledger.note(self.stay, format_args!("{} starts", self.name));
        self.addrs.clear();
        self.past.clear();
        self.cancellable.clear();
        self.next_context = 0;
    }

    /// Closes in good order.
    pub(super) fn close(&mut self, warehouse: &Warehouse, ledger: &mut Ledger) {
        if let Some(node) = self.node.take() {
            drop(node);
            if let Some(lending) = self.lending.take() {
                lending.leave(warehouse);
            }
            ledger.note(self.stay, format_args!("closes"));
            ledger.end(self.stay, Life::Dropped);
        }
    }

    /// Dies where it stands. Nobody has taken note yet.
    pub(super) fn die(&mut self, ledger: &mut Ledger) {
        if let Some(node) = self.node.take() {
            core::mem::forget(node);
            self.bereft = self.lending.take().map(Lending::die);
            ledger.note(self.stay, format_args!("dies"));
            ledger.end(self.stay, Life::Killed);
            self.unburied = true;
            self.marked = false;
        }
    }

    /// Somebody takes note; the second time, what it held is taken back. Whose buffers go first depends on the stay.
    pub(super) fn bury(&mut self, world: &World<'m, R>, warehouse: &Warehouse) {
        let first = self.unburied && !self.marked;
        if first {
            R::mark_dead(world.ground(), &self.name);
            self.marked = true;
        } else if self.unburied {
            R::kill(world.ground(), &self.name);
            self.unburied = false;
        }
        if !first || self.stay.is_multiple_of(2) {
            self.bereft.take().into_iter().for_each(|pool| Lending::bury(pool, warehouse));
        }
    }

    pub(super) fn turn(&mut self, world: &World<'m, R>, ledger: &mut Ledger) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        node.turn(world.now());
        // A turn ends with the doorbell.
        ledger.published(self.stay);
        while let Some(got) = node.take() {
            if got.returned {
                self.cancellable.retain(|(id, _)| *id != got.id);
            }
            ledger.completed(self.stay, &got)?;
            if let (Kind::Parcel, Some(from), Some(number)) = (got.kind, got.source, got.immediate)
                && let (Some(lending), Some(parcel)) = (&mut self.lending, node.take_parcel())
            {
                lending.came(parcel, from, number);
            }
        }
        ensure!(node.totals().stale_ids == 0, "a completion that names no operation");
        for event in node.events() {
            ledger.note(self.stay, format_args!("hears {event:?}"));
            match event {
                Event::Connected(addr) => self.remember(addr),
                Event::PeerGone(addr) => {
                    ledger.told(self.stay, addr)?;
                    self.addrs.retain(|known| *known != addr);
                    self.past.push(addr);
                }
                Event::Refused(addr) => {
                    let msg = world.endpoint_type() == EndpointType::Msg;
                    ensure!(msg, "refused, though there is room for everybody");
                    ledger.told(self.stay, addr).or(Ok(()))?;
                    self.addrs.retain(|known| *known != addr);
                }
                Event::PeerCorrupt(_) | Event::StaleCompletion(_) => {
                    return Err(Violation(format!("among honest peers: {event:?}")));
                }
            }
        }
        Ok(())
    }

    fn remember(&mut self, addr: Addr) {
        if !self.addrs.contains(&addr) {
            self.addrs.push(addr);
        }
    }

    /// Looks a peer up by name.
    pub(super) fn connect(
        &mut self,
        (peer, peer_stay): (&Name, usize),
        ledger: &mut Ledger,
    ) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        let connected = node.connect(peer);
        ledger.note(self.stay, format_args!("connects to {peer_stay}: {connected:?}"));
        if let Ok(addr) = connected {
            self.remember(addr);
            ledger.knows(self.stay, addr, peer_stay)?;
        }
        Ok(())
    }

    pub(super) fn disconnect(&mut self, ledger: &mut Ledger, rng: &mut Rng) {
        // Of the gone: whoever disconnects them gives up what they have left.
        let gone = !self.past.is_empty() && rng.chance(20);
        let from = if gone { &mut self.past } else { &mut self.addrs };
        if let (Some(node), false) = (&self.node, from.is_empty()) {
            let addr = from.swap_remove(rng.index(from.len()));
            ledger.note(self.stay, format_args!("disconnects {addr}"));
            if node.disconnect(addr).is_ok() {
                ledger.cut(self.stay, addr);
                // Their completions are under way.
                self.cancellable.retain(|(_, alone)| *alone != Some(addr));
            }
        }
    }

    /// Sends some messages to one peer, until the dice or the provider say stop.
    pub(super) fn send(
        &mut self,
        (warehouse, ledger): (&mut Warehouse, &mut Ledger),
        taste: &Taste,
        rng: &mut Rng,
    ) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        let Some(&addr) = self.addrs.get(rng.index(self.addrs.len() + 1)) else { return Ok(()) };
        for _ in 0..=rng.index(taste.burst_max) {
            let length = match rng.index(4) {
                0 => rng.index(taste.length_max.min(64) + 1),
                1 => taste.length_max.min([40, 41, 48, 49, 56, 57, 64][rng.index(7)]),
                _ => rng.index(taste.length_max + 1),
            };
            let tag = rng.chance(taste.tagged_percent).then(|| rng.below(3));
            if node.info().caps.has(Caps::PARCEL)
                && rng.chance(taste.parcel_percent)
                && let Some(lending) = &mut self.lending
            {
                let (to, what) = ((self.stay, addr), (tag, &mut *warehouse));
                if !lending.send(node, to, what, (ledger, rng))? {
                    return Ok(());
                }
                continue;
            }
            let letter = ledger.write((self.stay, addr), length, tag, rng.chance(30));
            let mut to = SendTo::peer(addr);
            to = letter.tag.map_or(to, |tag| to.tag(tag));
            to = letter.immediate.map_or(to, |data| to.immediate(data));
            let context = rng.chance(taste.posted_percent).then_some(self.next_context);
            let sent = match context {
                Some(context) => node.send(to, &letter.bytes, context).map(|_id| ()),
                None => node.inject(to, &letter.bytes),
            };
            match sent {
                Ok(()) => {
                    let about = (letter.stream, tag, length, context);
                    ledger.note(self.stay, format_args!("sends to {addr}: {about:?}"));
                    ledger.accepted(&letter, context)?;
                }
                Err(PostError::Misuse(misuse)) => {
                    return Err(Violation(format!("a good send is refused: {misuse}")));
                }
                Err(PostError::Retry(_) | PostError::Fatal(_)) => return Ok(()),
            }
            self.next_context += u64::from(context.is_some());
        }
        if rng.chance(30) {
            node.flush();
            ledger.published(self.stay);
        }
        Ok(())
    }

    /// Does something with buffers that have come, or were sent.
    pub(super) fn handle(
        &mut self,
        warehouse: &mut Warehouse,
        ledger: &Ledger,
        rng: &mut Rng,
    ) -> Checked {
        let (Some(node), Some(lending)) = (&self.node, &mut self.lending) else { return Ok(()) };
        for _ in 0..=rng.index(6) {
            lending.step(node, self.stay, (&mut *warehouse, ledger, rng))?;
        }
        Ok(())
    }

    /// Lets go of all buffers. Returns how many are under way.
    pub(super) fn let_go(&mut self) -> Result<usize, Violation> {
        let (Some(node), Some(lending)) = (&self.node, &mut self.lending) else { return Ok(0) };
        lending.let_go(node)?;
        Ok(lending.under_way())
    }

    /// Posts a receive of some kind.
    pub(super) fn receive(
        &mut self,
        world: &World<'m, R>,
        ledger: &mut Ledger,
        rng: &mut Rng,
    ) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        if world.pool().free_count() < 40 {
            return Ok(());
        }
        let context = self.next_context;
        let any_tag = RecvFrom::any().tag_ignoring(0, u64::MAX);
        let known = if rng.chance(20) { &self.past } else { &self.addrs };
        let directed = known.get(rng.index(known.len() + 1)).copied();
        let (posted, wanted) = match (rng.index(7), directed) {
            (0, Some(from)) => {
                (node.recv(RecvFrom::peer(from), context), Wanted::Untagged(Some(from)))
            }
            (0 | 1, _) => (node.recv(RecvFrom::any(), context), Wanted::Untagged(None)),
            (2, _) => {
                let tag = rng.below(3);
                (node.recv(RecvFrom::any().tag(tag), context), Wanted::Tag(tag))
            }
            (3 | 4, _) => (node.recv(any_tag, context), Wanted::AnyTag),
            (5, _) => (node.multi_recv(RecvFrom::any(), 64, context), Wanted::Many),
            _ => (node.run_recv(RecvFrom::any(), 64, context), Wanted::Many),
        };
        if let Ok(id) = posted {
            self.next_context += 1;
            let alone = if let Wanted::Untagged(from) = wanted { from } else { None };
            self.cancellable.push((id, alone));
            ledger.receives(self.stay, context, wanted)?;
        }
        Ok(())
    }

    /// Takes a receive back.
    pub(super) fn cancel(&mut self, rng: &mut Rng) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        if self.cancellable.is_empty() {
            return Ok(());
        }
        let (id, _) = self.cancellable.swap_remove(rng.index(self.cancellable.len()));
        let cancelled = node.cancel(id);
        ensure!(cancelled.is_ok(), "a posted receive cannot be cancelled: {cancelled:?}");
        Ok(())
    }

    /// Asks for whatever there may be, so that everything can arrive.
    pub(super) fn open_up(&mut self, ledger: &mut Ledger) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        for (wanted, from) in [
            (Wanted::Untagged(None), RecvFrom::any()),
            (Wanted::AnyTag, RecvFrom::any().tag_ignoring(0, u64::MAX)),
        ] {
            let enough = ledger.receives_open(self.stay, wanted) >= EACH;
            if !enough && node.recv(from, self.next_context).is_ok() {
                ledger.receives(self.stay, self.next_context, wanted)?;
                self.next_context += 1;
            }
        }
        Ok(())
    }

    /// Cancels all but what takes anything, so that narrow receives do not fill the table.
    pub(super) fn widen(&mut self) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        for (id, _) in self.cancellable.drain(..) {
            let cancelled = node.cancel(id);
            ensure!(cancelled.is_ok(), "a posted receive cannot be cancelled: {cancelled:?}");
        }
        Ok(())
    }
}
