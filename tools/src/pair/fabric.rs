//! Round trips between two processes over a provider of libfabric, to be held against `fi_pingpong` on the same provider.
//!
//! ```text
//!   measuring end (this process)          other end (a second one, with --listen FOLDER)
//!     FOLDER/near  ── its address ──>
//!                  <── its address ──     FOLDER/far
//!     inject, turn until it is back       turn until it is there, inject it back
//! ```

use core::cell::RefCell;
use core::mem::MaybeUninit;
use core::net::SocketAddr;
use core::time::Duration;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::parent_id;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{scope, sleep, yield_now};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;
use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::msg::{Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::provider::{EndpointType, Event};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::Instant as PlaneInstant;
use spinwire_hostshim::affinity;
use spinwire_hostshim::clock::TscClock;
use spinwire_hostshim::error::{Errno, OsError};
use spinwire_hostshim::libfabric::{Names, OfiConfig, OfiPort, remove_shm_left_by};

use super::client;
use super::ending::{self, Input, Told};
use super::network;
use super::options::PairOptions;
use super::station::GONE;
use crate::report::{Failure, Verdict, emit, print_json};

/// Receives that wait at each end.
const RECEIVES: u32 = 16;
/// Round trips before the first that counts.
const WARM_UP: u64 = 2000;
/// Round trips where the arguments say nothing.
const ITERS: u64 = 50_000;
/// How long the ends wait for each other, and for a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// Files that an end opens beside its endpoint, one after the other: those in the folder, and the library's connection.
const CONNECTION_FILES: usize = 1;
/// Turns between two looks at the clock.
const TURNS_PER_LOOK: u32 = 64;
/// So many folders that killed processes of the same number have left behind are in nobody's way.
const FOLDERS_MAX: u32 = 64;
/// How long the other end has to close what it has open.
const FAREWELL: Duration = Duration::from_secs(2);
/// The most that counts of the time between two looks at the clock.
const AWAY_NS: u64 = 200_000_000;
/// How long the other end waits for a message before it ends.
const PATIENCE_NS: u64 = 10_000_000_000;
/// After so long a silence an end looks whether the other one still runs.
const LOOK_AFTER: Duration = Duration::from_millis(50);
const LOOK_AFTER_NS: u64 = 50_000_000;

#[derive(Debug, Serialize)]
struct Report {
    provider: String,
    endpoint_type: String,
    size: usize,
    iters: u64,
    cpus: [u32; 2],
    mean_rtt_ns: f64,
    rtt_ns: [(&'static str, u64); 6],
}

/// Measures every size that the arguments name, or is the other end.
pub(crate) fn round_trips(options: &PairOptions) -> Result<Verdict, Failure> {
    refuse_what_is_not_offered(options)?;
    let (near, far) = options.placement()?;
    let is_shm = options.fabric_provider == "shm";
    if let Some(folder) = &options.listen {
        if is_shm {
            let made_by_who_started_this = PathBuf::from(folder);
            let last = move || remove(&made_by_who_started_this);
            ending::ends_in_spite_of_shm(Input::of(options), last)?;
        }
        affinity::pin(far)?;
        return serve(Path::new(folder), options);
    }
    let folder = Folder::new()?;
    let told = if is_shm {
        let path = folder.0.clone();
        ending::before_a_signal_ends_this(move || {
            remove(&path);
            let _as_many = remove_shm_left_by(std::process::id());
        })?;
        Told::by_nobody()
    } else {
        network::ask_for_way(SocketAddr::from(([127, 0, 0, 1], 1)))?;
        Told::listen()?
    };
    let measured = measure_all(options, ((near, far), &folder), &told);
    drop(folder);
    if measured.is_err() {
        told.end();
    }
    report(&measured?, options)
}

/// Every size.
fn measure_all(
    options: &PairOptions,
    ((near, far), folder): ((u32, u32), &Folder),
    told: &Told,
) -> Result<Vec<Report>, Failure> {
    let mut reports = Vec::new();
    let sizes = options.sizes();
    for (left, size) in (0..sizes.len()).rev().zip(sizes) {
        let mut one = options.clone();
        (one.size, one.all_sizes) = (vec![size], false);
        let place = folder.0.as_path();
        let both_ends = move || {
            let other_end = OtherEnd::start(place, &one, (near, far))?;
            affinity::pin(near)?;
            let goes_on = || told.check().and_then(|()| other_end.check());
            let measured = measure((place, &goes_on, told), (size, [near, far]), &one);
            measured.inspect_err(|_| other_end.give_up())
        };
        // A thread for each size but the last: what is pinned stays so, and all that it starts. None for the last, see `ending`.
        reports.push(match left {
            0 => both_ends(),
            _ => scope(|scope| scope.spawn(both_ends).join())
                .unwrap_or_else(|panic| resume_unwind(panic)),
        }?);
        folder.empty()?;
    }
    Ok(reports)
}

fn report(reports: &[Report], options: &PairOptions) -> Result<Verdict, Failure> {
    if options.json {
        print_json(&reports.iter().collect::<Vec<_>>())?;
        return Ok(Verdict::Well);
    }
    for report in reports {
        let figures: Vec<_> =
            report.rtt_ns.iter().map(|(name, ns)| format!("{name} {ns}")).collect();
        emit(&format!(
            "{} {}, CPUs {:?}; ns {:>8} bytes {:>9} trips  mean {:.0}  {}\n",
            report.provider,
            report.endpoint_type,
            report.cpus,
            report.size,
            report.iters,
            report.mean_rtt_ns,
            figures.join("  ")
        ))?;
    }
    Ok(Verdict::Well)
}

fn refuse_what_is_not_offered(options: &PairOptions) -> Result<(), Failure> {
    let asked = [
        ("--connect", options.connect.is_some()),
        ("--zero-copy", options.zero_copy),
        ("--plot", options.plot.is_some()),
    ];
    match asked.into_iter().find(|(_, is_asked)| *is_asked) {
        Some((flag, _)) => Err(format!(
            "{flag}: not offered with --provider ofi, which starts both ends; leave it out"
        )
        .into()),
        None => Ok(()),
    }
}

/// Where the ends tell each other where they are, for their user alone. Goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let parent = std::env::temp_dir();
        // What another of that number has left behind is his, or was: then the next name.
        for next in 0..FOLDERS_MAX {
            let path = parent.join(format!("spinwire-ofi-{}-{next}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(format!("{}: {e}; remedy: set TMPDIR", path.display()).into()),
            }
        }
        let parent = parent.display();
        Err(format!("{parent}: too much was left there; remedy: rm -r {parent}/spinwire-ofi-*")
            .into())
    }

    fn empty(&self) -> Result<(), Failure> {
        for file in std::fs::read_dir(&self.0)? {
            std::fs::remove_file(file?.path())?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes the folder and what the ends have told each other in it.
fn remove(folder: &Path) {
    // The other end may have been faster. Nothing depends on it.
    let _removed = std::fs::remove_dir_all(folder);
}

/// The process of the other end. Ends when it is dropped.
struct OtherEnd(RefCell<Child>);

impl OtherEnd {
    fn start(folder: &Path, options: &PairOptions, cpus: (u32, u32)) -> Result<Self, Failure> {
        let size = options.size.first().copied().unwrap_or(1);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["lat", "--provider", "ofi", "--fabric-provider", &options.fabric_provider]);
        command.args(["--fabric-type", options.fabric_type.as_str(), "--size", &size.to_string()]);
        command.args(["--cpus", &format!("{},{}", cpus.0, cpus.1), "--listen"]).arg(folder);
        if options.tagged {
            command.arg("--tagged");
        }
        // It ends with this process, however that ends.
        command.arg("--until-input-ends").stdin(Stdio::piped());
        let child = command.spawn();
        // The program that runs is there: what is lacking is descriptors, or memory.
        let child = child.map_err(|e| OsError::new("the second process", Errno::from_io(&e)))?;
        Ok(Self(RefCell::new(child)))
    }

    /// It is not told that all was measured: the end of its input tells it to end.
    fn give_up(&self) {
        drop(self.0.borrow_mut().stdin.take());
    }

    /// Fails where it has ended.
    fn check(&self) -> Result<(), Failure> {
        match self.0.borrow_mut().try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("{GONE} {}", client::how(status)).into()),
        }
    }
}

impl Drop for OtherEnd {
    fn drop(&mut self) {
        // It ends by itself when it is told to, and closes what it has open.
        let child = self.0.get_mut();
        let since = Instant::now();
        while since.elapsed() < FAREWELL && matches!(child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(1));
        }
        let _killed = child.kill();
        let _ended = child.wait();
        let _as_many = remove_shm_left_by(child.id());
    }
}

type End<'m> = Endpoint<'m, OfiPort<'m>>;

/// One end, with its receives posted.
struct Station<'m> {
    end: End<'m>,
    pool: &'m LoanPool<'m>,
    clock: TscClock,
    /// The tag of messages, where they have one.
    tag: Option<u64>,
    name: String,
    /// Whether to yield when there is nothing to do: both ends share a CPU.
    yields: bool,
    /// Fails where the other end has ended, as far as this one can tell.
    other: &'m dyn Fn() -> Result<(), Failure>,
}

/// Opens an end with memory of its own, and runs `body` on it.
fn with_station<R>(
    (me, other): (&str, &str),
    (folder, other_end): (&Path, &dyn Fn() -> Result<(), Failure>),
    options: &PairOptions,
    body: impl FnOnce(&Station<'_>, Addr) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let longest = options.sizes().into_iter().max().unwrap_or(1);
    let mut block = vec![MaybeUninit::uninit(); (1 << 20) + 64 * (longest + 64)];
    let bump = Bump::new(&mut block);
    let names = Names::new();
    let kind = options.fabric_type.endpoint_type();
    let config = OfiConfig {
        provider: Some(options.fabric_provider.clone()),
        endpoint_type: kind,
        node: (options.fabric_provider != "shm").then(|| "127.0.0.1".to_owned()),
        peers_max: 4,
        send_depth: 256,
        recv_depth: 256,
        message_bytes_max: u32::try_from(longest.max(64))?,
        ..OfiConfig::default()
    };
    let name = Name::new(me)?;
    let port = OfiPort::open(&bump, &names, &name, &config)?;
    let (provider, address) = (port.provider_name(), port.address()?);
    let end = Endpoint::new(port, &bump, &EndpointConfig { contexts_max: 64 })?;
    let pool = LoanPool::place(&bump, RECEIVES + 2, longest)?;
    let tag = options.tagged.then_some(7);
    let station = Station {
        end,
        pool,
        clock: TscClock::calibrate(),
        tag,
        name: provider,
        yields: options.shares_cpu()?,
        other: other_end,
    };
    network::has_descriptors_for(CONNECTION_FILES)?;
    for _ in 0..RECEIVES {
        station.receive()?;
    }
    Names::publish(&folder.join(me), (&name, &address))?;
    let peer = await_end(&names, &folder.join(other), other_end)?;
    let to = station.meet(&peer, kind, me == NEAR)?;
    body(&station, to)
}

/// Waits for what the other end publishes, as long as that runs.
fn await_end(
    names: &Names,
    path: &Path,
    other_end: &dyn Fn() -> Result<(), Failure>,
) -> Result<Name, Failure> {
    let since = Instant::now();
    loop {
        match names.await_file(path, LOOK_AFTER) {
            Err(e) if e.kind() == ErrorKind::TimedOut && since.elapsed() < PATIENCE => other_end()?,
            awaited => return Ok(awaited?),
        }
    }
}

/// What is said when all was measured: a message of another length.
const fn farewell(size: usize) -> &'static [u8] {
    if size == 0 { b"." } else { b"" }
}

/// What is said where the other end is there, and silent.
const NO_ANSWER: &str = "no message came back within 10 s; remedy: see whether the second process still runs, and has a CPU (--cpus)";
/// The end that measures, and the other one.
const NEAR: &str = "near";
const FAR: &str = "far";

impl Station<'_> {
    fn receive(&self) -> Result<(), Failure> {
        let loan = self.pool.lend().ok_or("all buffers are out")?;
        let from = self.tag.map_or(RecvFrom::any(), |tag| RecvFrom::any().tag(tag));
        self.end.post_recv(from, loan, 0).map_err(|refused| refused.error)?;
        Ok(())
    }

    fn turn(&self) {
        self.turn_at(self.clock.now());
    }

    /// Where there was nothing to do on a CPU that both ends share, the other one has its turn.
    #[inline]
    fn turn_at(&self, now: PlaneInstant) {
        if !self.end.turn(now, Budget::DEFAULT).is_busy() && self.yields {
            yield_now();
        }
    }

    /// Connects, or waits for who does.
    fn meet(&self, peer: &Name, kind: EndpointType, connects: bool) -> Result<Addr, Failure> {
        if kind == EndpointType::Rdm {
            return Ok(self.end.connect(peer)?);
        }
        if connects {
            self.end.connect(peer)?;
        }
        let (since, mut look_at, mut waited_ns) = (self.clock.now(), LOOK_AFTER_NS, 0);
        while waited_ns < PATIENCE_NS {
            self.turn();
            match self.end.poll_event() {
                Some(Event::Connected(peer)) => return Ok(peer),
                Some(other) => {
                    return Err(self.explain(format!("not connected: {other:?}").into()));
                }
                None => {}
            }
            waited_ns = self.clock.now().saturating_since(since).as_nanos();
            if waited_ns > look_at {
                look_at = waited_ns.saturating_add(LOOK_AFTER_NS);
                (self.other)()?;
            }
        }
        Err("nobody has connected within 10 s".into())
    }

    #[inline]
    fn send(&self, to: Addr, bytes: &[u8]) -> Result<(), Failure> {
        let target = SendTo::peer(to);
        let target = self.tag.map_or(target, |tag| target.tag(tag));
        let (mut refused_at, mut look_at) = (None, LOOK_AFTER_NS);
        loop {
            match self.end.inject(target, bytes) {
                Ok(()) => return Ok(()),
                Err(PostError::Retry(retry)) => {
                    let since = *refused_at.get_or_insert(self.clock.now());
                    let waited_ns = self.clock.now().saturating_since(since).as_nanos();
                    if waited_ns > look_at {
                        look_at = waited_ns.saturating_add(LOOK_AFTER_NS);
                        (self.other)()?;
                    }
                    if waited_ns > PATIENCE_NS {
                        return Err(format!("not sent within 10 s: {retry}").into());
                    }
                    self.turn();
                }
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    /// A failure, or the end of the other one, which it may come from: that of a connection may be seen before that of its process.
    #[cold]
    fn explain(&self, failure: Failure) -> Failure {
        sleep(LOOK_AFTER);
        (self.other)().err().unwrap_or(failure)
    }

    /// The next message, of that many bytes. `None` where none comes. Its receive is posted anew by the caller, after the answer, since there
    /// are others.
    #[inline]
    fn next(&self, size: usize) -> Result<Option<()>, Failure> {
        let (mut now, mut turns, mut look_at) = (self.clock.now(), 0_u32, LOOK_AFTER_NS);
        let mut waited_ns = 0_u64;
        loop {
            // To read the clock takes as long as to look for a message.
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS_PER_LOOK) {
                let before = core::mem::replace(&mut now, self.clock.now());
                // Who was stopped has not waited meanwhile.
                waited_ns += now.saturating_since(before).as_nanos().min(AWAY_NS);
            }
            self.turn_at(now);
            if let Some(got) = self.end.poll() {
                if got.kind == Kind::RecvEnded || got.length == farewell(size).len() {
                    // The other end is gone, or has said that all was measured.
                    return Ok(None);
                }
                if got.kind != Kind::Received || got.length != size {
                    return Err(format!("not a message of {size} bytes: {got:?}").into());
                }
                return Ok(Some(()));
            }
            if waited_ns > PATIENCE_NS {
                return Ok(None);
            }
            if waited_ns > look_at {
                look_at = waited_ns.saturating_add(LOOK_AFTER_NS);
                (self.other)()?;
            }
        }
    }
}

/// The other end: sends back what it gets, until nothing comes any more.
fn serve(folder: &Path, options: &PairOptions) -> Result<Verdict, Failure> {
    let size = options.sizes().first().copied().unwrap_or(1);
    let message = vec![0xA5; size];
    let (starter, input) = (parent_id(), Input::of(options));
    let served =
        with_station((FAR, NEAR), (folder, &|| input.goes_on()), options, |station, to| {
            while station.next(size)?.is_some() {
                station.send(to, &message)?;
                station.receive()?;
            }
            Ok(Verdict::Well)
        });
    if served.is_err() {
        ending::clear_after(starter, input);
    }
    if input.goes_on().is_err() {
        // Who was killed has left it; and nobody is there to be told anything.
        remove(folder);
        return Ok(Verdict::Well);
    }
    served
}

fn measure(
    (folder, goes_on, told): (&Path, &dyn Fn() -> Result<(), Failure>, &Told),
    (size, cpus): (usize, [u32; 2]),
    options: &PairOptions,
) -> Result<Report, Failure> {
    let message = vec![0x5A; size];
    let mut iters = options.iters.unwrap_or(ITERS);
    with_station((NEAR, FAR), (folder, goes_on), options, |station, to| {
        let mut trips = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
        let (mut first, mut last) = (None, station.clock.now());
        let began_warming = last;
        let mut number = 0_u64;
        while number < WARM_UP.saturating_add(iters) {
            // What is kept of a trip is kept while the next one is under way, like the receive that it has used.
            station.send(to, &message)?;
            // As far from the send each time: from one to the next it is as long as from send to send.
            let began = station.clock.now();
            if number > 0 {
                station.receive()?;
            }
            if number > WARM_UP {
                trips.record(began.saturating_since(last).as_nanos().max(1))?;
            }
            if number == WARM_UP {
                first = Some(began);
                let ns = began.saturating_since(began_warming).as_nanos();
                iters = options.seconds.map_or(iters, |seconds| trips_within(seconds, ns));
            }
            last = began;
            station.next(size)?.ok_or_else(|| station.explain(NO_ANSWER.into()))?;
            number = number.saturating_add(1);
            told.check()?;
        }
        let end = station.clock.now();
        if first.is_some() {
            trips.record(end.saturating_since(last).as_nanos().max(1))?;
        }
        let whole = first.map_or(0, |first| end.saturating_since(first).as_nanos());
        station.send(to, farewell(size))?;
        station.turn();
        let at = |quantile| trips.value_at_quantile(quantile);
        let rtt_ns = [
            ("min", trips.min()),
            ("p50", at(0.5)),
            ("p90", at(0.9)),
            ("p99", at(0.99)),
            ("p99_9", at(0.999)),
            ("max", trips.max()),
        ];
        let mean_rtt_ns = f64_of(whole) / f64_of(iters.max(1));
        let endpoint_type = options.fabric_type.as_str().to_owned();
        Ok(Report {
            provider: station.name.clone(),
            endpoint_type,
            size,
            iters,
            cpus,
            mean_rtt_ns,
            rtt_ns,
        })
    })
}

/// How many trips take so many seconds, where those of the warm-up have taken `warm_up_ns`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::as_conversions,
    reason = "a number of messages that takes about so long"
)]
fn trips_within(seconds: f64, warm_up_ns: u64) -> u64 {
    let trip_ns = f64_of(warm_up_ns) / f64_of(WARM_UP);
    (seconds * 1e9 / trip_ns.max(1.0)).max(1.0) as u64
}

fn f64_of(number: u64) -> f64 {
    let high = u32::try_from(number >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(number & 0xFFFF_FFFF).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}
