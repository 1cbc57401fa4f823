//! Round trips between two queue pairs of one port of an mlx5 device, turned by one thread. Unverified on hardware.
//!
//! ```text
//!   queue pair 0   send ──> port ──> receive   queue pair 1
//!                receive <── port <── send
//!                      one completion queue, one thread
//! ```

use core::mem::MaybeUninit;
use std::rc::Rc;

use hdrhistogram::Histogram;
use serde::Serialize;
use spinwire_dataplane::cq::{Event, MonoCq, QueueTable};
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::raw::region::LocalSge;
use spinwire_dataplane::wqe::{Qp, WqeFlags};
use spinwire_hostshim::affinity;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::mem::{Mapping, PagePolicy};
use spinwire_hostshim::mlx5::{Library, MemoryAccess, Mlx5, Mlx5Config, QueuePairConfig};

use super::options::PairOptions;
use crate::report::{Failure, Verdict, print_json};

/// Up to this size a message is part of the work request.
const INLINE_BYTES: usize = 64;
/// Receives that wait on each side.
const RECEIVES: u32 = 16;
/// Completions that both queue pairs may have at once, however far the library rounds their queues up.
const COMPLETIONS: u32 = 4096;
/// Round trips before the first that counts.
const WARM_UP: u64 = 1000;
/// Round trips where the arguments say nothing.
const ITERS: u64 = 100_000;
/// When a completion is given up.
const PATIENCE_NS: u64 = 5_000_000_000;
const ARENA_BYTES: usize = 1 << 18;

/// Which of the two queue pairs something was posted to.
type End = usize;

type Pair<'m> = Rc<Qp<'m, End, Device>>;

#[derive(Debug, Serialize)]
struct Report {
    provider: &'static str,
    verified_on_hardware: bool,
    device: String,
    size: usize,
    iters: u64,
    cpu: u32,
    rtt_ns: [(&'static str, u64); 6],
}

/// Measures every size that the arguments name.
pub(crate) fn round_trips(options: &PairOptions) -> Result<Verdict, Failure> {
    refuse_what_is_not_offered(options)?;
    let device = Mlx5::open(Library::linked()?, &Mlx5Config::default())?;
    let (cpu, _) = options.placement()?;
    affinity::pin(cpu)?;
    let sizes = options.sizes();
    let reports: Result<Vec<_>, _> =
        sizes.iter().map(|size| measure(&device, (cpu, *size), options)).collect();
    let reports = reports?;
    if options.json {
        print_json(&reports.iter().collect::<Vec<_>>())?;
        return Ok(Verdict::Well);
    }
    println!(
        "round trips between two queue pairs of one port of {}, CPU {cpu}; ns; UNVERIFIED ON HARDWARE",
        device.name()
    );
    for report in &reports {
        let figures: Vec<_> =
            report.rtt_ns.iter().map(|(name, ns)| format!("{name} {ns}")).collect();
        println!("{:>8} bytes {:>9} trips  {}", report.size, report.iters, figures.join("  "));
    }
    Ok(Verdict::Well)
}

fn refuse_what_is_not_offered(options: &PairOptions) -> Result<(), Failure> {
    let asked = [
        ("--listen", options.listen.is_some()),
        ("--connect", options.connect.is_some()),
        ("--tagged", options.tagged),
        ("--zero-copy", options.zero_copy),
        ("--plot", options.plot.is_some()),
    ];
    match asked.into_iter().find(|(_, is_asked)| *is_asked) {
        Some((flag, _)) => Err(format!(
            "{flag}: not offered with --provider mlx5, which measures two queue pairs of one port; leave it out"
        )
        .into()),
        None => Ok(()),
    }
}

/// Both ends, and what they complete into.
struct Loop<'m> {
    pairs: [Pair<'m>; 2],
    cq: MonoCq<'m, Device, Pair<'m>>,
    clock: TscClock,
    /// What is sent, and where it is received, by end.
    from: [LocalSge; 2],
    to: [LocalSge; 2],
    size: usize,
}

fn measure(
    device: &Mlx5,
    (cpu, size): (u32, usize),
    options: &PairOptions,
) -> Result<Report, Failure> {
    let completions = device.completions(COMPLETIONS)?;
    let config = QueuePairConfig { receives: RECEIVES, ..QueuePairConfig::default() };
    let ends = [completions.queue_pair(config)?, completions.queue_pair(config)?];
    let [first, second] = &ends;
    let memory = Mapping::anonymous(4 * size.max(64), PagePolicy::Best)?;
    let memory = device.register(memory, MemoryAccess::default())?;
    let mut block = vec![MaybeUninit::uninit(); ARENA_BYTES];
    let bump = Bump::new(&mut block);
    let cq = MonoCq::new(completions.build()?, QueueTable::place(&bump, 2)?);
    let pairs = [first.build(&bump)?, second.build(&bump)?];
    for pair in &pairs {
        cq.add(Rc::clone(pair)).map_err(|(error, _)| error)?;
    }
    let length = u32::try_from(size)?;
    let part = |number: u64| memory.region().range(number * u64::from(length.max(64)), length);
    let (from, to) = ([part(0)?, part(1)?], [part(2)?, part(3)?]);
    let both = Loop { pairs, cq, clock: TscClock::calibrate(), from, to, size };
    first.connect(second.address())?;
    second.connect(first.address())?;
    for end in [0, 1] {
        for _ in 0..RECEIVES / 2 {
            both.receive(end)?;
        }
    }
    let mut trips = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let iters = options.iters.unwrap_or(ITERS);
    for number in 0..WARM_UP.saturating_add(iters) {
        let began = both.clock.now().as_nanos();
        both.trip(0, 1)?;
        both.trip(1, 0)?;
        if number >= WARM_UP {
            trips.record(both.clock.now().as_nanos().saturating_sub(began).max(1))?;
        }
    }
    let at = |quantile| trips.value_at_quantile(quantile);
    let rtt_ns = [
        ("min", trips.min()),
        ("p50", at(0.5)),
        ("p90", at(0.9)),
        ("p99", at(0.99)),
        ("p99_9", at(0.999)),
        ("max", trips.max()),
    ];
    let device = device.name().to_owned();
    Ok(Report { provider: "mlx5", verified_on_hardware: false, device, size, iters, cpu, rtt_ns })
}

impl Loop<'_> {
    fn receive(&self, end: End) -> Result<(), Failure> {
        let (Some(pair), Some(to)) = (self.pairs.get(end), self.to.get(end)) else {
            return Err("an end that is not".into());
        };
        pair.with_rq_wqe(|wqe| wqe.sge(*to).finish(end))?;
        let _posted = pair.rq().map(|rq| rq.ring_doorbell());
        Ok(())
    }

    /// One message, from its work request to the completion of its receive.
    fn trip(&self, from: End, to: End) -> Result<(), Failure> {
        let (Some(pair), Some(sge)) = (self.pairs.get(from), self.from.get(from)) else {
            return Err("an end that is not".into());
        };
        if self.size <= INLINE_BYTES {
            let message = [0x5A; INLINE_BYTES];
            let message = message.get(..self.size).unwrap_or_default();
            pair.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(message).finish_signaled(from))?;
        } else {
            pair.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).sge(*sge).finish_signaled(from))?;
        }
        pair.ring_doorbell();
        let since = self.clock.now().as_nanos();
        loop {
            let mut outcome: Result<bool, String> = Ok(false);
            self.cq.poll(16, |event| match event {
                Event::Received { entry, .. } if entry == to => {
                    outcome =
                        outcome.as_ref().map_or_else(|e: &String| Err(e.clone()), |_| Ok(true));
                }
                Event::Sent { .. } | Event::Received { .. } => {}
                Event::SendFailed { .. }
                | Event::ReceiveFailed { .. }
                | Event::Stale { .. }
                | Event::UnknownQueue { .. }
                | Event::Odd(_) => outcome = Err(describe(&event)),
            });
            if outcome? {
                return self.receive(to);
            }
            if self.clock.now().as_nanos().saturating_sub(since) > PATIENCE_NS {
                return Err("no completion within 5 s; remedy: ibv_rc_pingpong shows whether the port carries anything".into());
            }
        }
    }
}

/// What went wrong, of an event that is no success.
fn describe(event: &Event<'_, End, End>) -> String {
    match event {
        Event::SendFailed { failure, .. } | Event::ReceiveFailed { failure, .. } => {
            format!(
                "queue pair {:#x}: {}, vendor {:#x}",
                failure.qpn, failure.syndrome, failure.vendor
            )
        }
        Event::Stale { qpn, why, .. } => format!("queue pair {qpn:#x}: {why}"),
        Event::UnknownQueue { qpn, .. } => {
            format!("a completion of queue pair {qpn:#x}, which is not ours")
        }
        Event::Odd(odd) => format!("a completion of unknown form {:#04x}", odd.op_own),
        Event::Sent { .. } | Event::Received { .. } => String::new(),
    }
}
