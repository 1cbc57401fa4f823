//! iceoryx2: publish-subscribe between two processes; the far one is this program again.
//!
//! The ping-pong is set up as iceoryx2's own benchmark is: a service for each direction, a buffer
//! of one sample, safe overflow, both sides spinning, the next sample loaned while the last one
//! travels. The stream wants every message delivered: no overflow, a deep buffer (its depth from 16
//! to 1024 makes no difference), and a publisher that spins when it is full (see [`publish`]).
//! The plain row is what its examples show: services as they come, and a sample loaned when there is
//! something to send. It has no bar; it tells what who does not tune gets.
//!
//! Waiting costs one `spin_loop` hint a look, which helps a little.
//!
//! A message carries its number in its first word. [`STOP`] ends the far side; so does silence.

use core::hint;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::PortFactory as _;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

use super::Peer;
use super::floor::WARM_UP_PART;
use super::spinwire::Spinwire;
use crate::clock::Clock;
use crate::cpu;
use crate::process::{LIMIT, Running};
use crate::sample::{Sample, Stream, Trips};
use crate::schedule::Plan;
use crate::work::{Kind, Work};

/// The payload: 64 bytes.
type Payload = [u64; 8];

/// The number that ends the far side.
const STOP: u64 = u64::MAX;

/// Samples that the subscriber of a stream may lag behind.
const STREAM_BUFFER: usize = 256;

/// How long each side waits for the other before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Empty looks between two looks at the clock.
const LOOKS: u32 = 1 << 16;

/// An iceoryx2 row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iceoryx2 {
    /// Whether it is used as iceoryx2's examples do, not as its benchmark does.
    pub(crate) plain: bool,
}

/// What the far process is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct FarSide {
    /// What it does with messages.
    #[arg(long)]
    role: Role,
    /// The stem of the services' names.
    #[arg(long)]
    stem: String,
    /// The processor it is pinned to.
    #[arg(long)]
    cpu: usize,
    /// Messages that do not count.
    #[arg(long)]
    warm_up: u64,
    /// Messages that count.
    #[arg(long)]
    messages: u64,
    /// The services as they come, and a sample loaned when there is something to send.
    #[arg(long)]
    plain: bool,
}

/// The far side's part.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Sends every message back.
    Echo,
    /// Reads messages and prints how many nanoseconds the counted ones took.
    Sink,
}

impl Peer for Iceoryx2 {
    fn name(&self) -> &'static str {
        if self.plain { "iceoryx2, plain" } else { "iceoryx2" }
    }

    fn word(&self) -> &'static str {
        "iceoryx2"
    }

    fn measures(&self, work: Work) -> bool {
        work.is_copied() && work.size == 64 && !(self.plain && matches!(work.kind, Kind::Stream))
    }

    fn rival(&self) -> Option<&'static str> {
        Some(Spinwire::Tagged.name())
    }

    fn probe(&self, _plan: &Plan) -> Result<String, String> {
        set_log_level(LogLevel::Error);
        // Opening a service needs its folders and /dev/shm; where they are missing, this says so.
        Services::new(&stem("probe"), Some((STREAM_BUFFER, false)))
            .map_err(|error| format!("iceoryx2 does not work here: {error:#}"))?;
        let how = if self.plain { "as it comes" } else { "as in its own benchmark" };
        Ok(format!("two processes, publish-subscribe, ipc::Service, {how}"))
    }

    fn measure(&self, work: Work, plan: &Plan) -> anyhow::Result<Sample> {
        let (role, count) = match work.kind {
            Kind::Rtt => (Role::Echo, plan.effort.trips(work.size)),
            // An order of magnitude below the rings; half the messages keep its rounds as short as
            // theirs.
            Kind::Stream => (Role::Sink, plan.effort.messages(work.size) / 2),
        };
        let warm_up = count / WARM_UP_PART;
        let side = FarSide {
            role,
            stem: stem(&work.word()),
            cpu: plan.cpus.far,
            warm_up: u64::from(warm_up),
            messages: u64::from(count),
            plain: self.plain,
        };
        let (services, far) = (side.services()?, side.start()?);
        match role {
            Role::Echo => {
                let laps = cpu::on(plan.cpus.near, || ping(&services, &side, count as usize))?;
                far.finish(LIMIT)?;
                Ok(Sample::Rtt(laps.finish(&plan.clock)))
            }
            Role::Sink => {
                cpu::on(plan.cpus.near, || publish(&services, &side))?;
                let said = far.finish(LIMIT)?.stdout;
                let ns: f64 =
                    said.trim().parse().with_context(|| format!("the sink said {said}"))?;
                Ok(Sample::Stream(Stream {
                    messages_per_s: f64::from(count) / ns * 1e9,
                    ..Stream::default()
                }))
            }
        }
    }
}

/// The far process: what the hidden subcommand runs.
pub(crate) fn run_far_side(side: &FarSide) -> anyhow::Result<()> {
    set_log_level(LogLevel::Error);
    cpu::pin(side.cpu)?;
    let services = side.services()?;
    match side.role {
        Role::Echo => echo(&services, side),
        Role::Sink => {
            let ticks = sink(&services, side)?;
            println!("{}", Clock::calibrate().ns(ticks as f64));
            Ok(())
        }
    }
}

impl FarSide {
    /// Starts the far process.
    fn start(&self) -> anyhow::Result<Running> {
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        let role = match self.role {
            Role::Echo => "echo",
            Role::Sink => "sink",
        };
        command.args(["iceoryx2-far-side", "--role", role, "--stem", &self.stem]);
        command.args(["--cpu", &self.cpu.to_string(), "--warm-up", &self.warm_up.to_string()]);
        command.args(["--messages", &self.messages.to_string()]);
        if self.plain {
            command.arg("--plain");
        }
        Running::start(command, None)
    }

    fn services(&self) -> anyhow::Result<Services> {
        match self.role {
            Role::Echo if self.plain => Services::new(&self.stem, None),
            Role::Echo => Services::new(&self.stem, Some((1, true))),
            Role::Sink => Services::new(&self.stem, Some((STREAM_BUFFER, false))),
        }
    }
}

/// A name that no other run uses at the same time.
fn stem(word: &str) -> String {
    format!("spinwire-peers/{}/{word}", std::process::id())
}

/// A service each way. Publisher and subscriber of a process are made where they are used: on the
/// pinned thread.
#[derive(Debug)]
struct Services {
    to_far: PortFactory<ipc::Service, Payload, ()>,
    to_near: PortFactory<ipc::Service, Payload, ()>,
    _node: Node<ipc::Service>,
}

impl Services {
    /// With a buffer of so many samples, with or without overflow; or as they come.
    fn new(stem: &str, tuned: Option<(usize, bool)>) -> anyhow::Result<Self> {
        let node = NodeBuilder::new()
            .create::<ipc::Service>()
            .map_err(|error| anyhow!("no iceoryx2 node: {error:?}"))?;
        let open = |direction: &str| {
            let name = format!("{stem}/{direction}");
            let name = ServiceName::new(&name).map_err(|error| anyhow!("{name}: {error:?}"))?;
            let service = node.service_builder(&name).publish_subscribe::<Payload>();
            let service = match tuned {
                None => service,
                Some((buffer, overflow)) => service
                    .max_publishers(1)
                    .max_subscribers(1)
                    .history_size(0)
                    .subscriber_max_buffer_size(buffer)
                    .enable_safe_overflow(overflow),
            };
            service.open_or_create().map_err(|error| anyhow!("service {name}: {error:?}"))
        };
        Ok(Self { to_far: open("to-far")?, to_near: open("to-near")?, _node: node })
    }
}

type Sender = Publisher<ipc::Service, Payload, ()>;
type Receiver = Subscriber<ipc::Service, Payload, ()>;

fn publisher(service: &PortFactory<ipc::Service, Payload, ()>) -> anyhow::Result<Sender> {
    service
        .publisher_builder()
        .backpressure_strategy(BackpressureStrategy::DiscardData)
        .max_loaned_samples(2)
        .create()
        .map_err(|error| anyhow!("no publisher: {error:?}"))
}

fn subscriber(service: &PortFactory<ipc::Service, Payload, ()>) -> anyhow::Result<Receiver> {
    service.subscriber_builder().create().map_err(|error| anyhow!("no subscriber: {error:?}"))
}

/// Waits until the other process has made its ports.
fn await_ports(services: &Services, side: &FarSide) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let ready = || {
        let receives = services.to_far.dynamic_config().number_of_subscribers() == 1;
        let sends = services.to_near.dynamic_config().number_of_publishers() == 1;
        receives && (sends || matches!(side.role, Role::Sink))
    };
    while !ready() {
        ensure!(Instant::now() < deadline, "the far iceoryx2 process did not come up");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Spins until a message is there, and copies it out.
#[inline]
fn receive(from: &Receiver) -> anyhow::Result<Payload> {
    let mut deadline = None;
    loop {
        for _ in 0..LOOKS {
            match from.receive() {
                Ok(Some(sample)) => return Ok(*sample.payload()),
                Ok(None) => hint::spin_loop(),
                Err(error) => bail!("receive: {error:?}"),
            }
        }
        let now = Instant::now();
        if now > *deadline.get_or_insert(now + PATIENCE) {
            bail!("the other iceoryx2 process fell silent");
        }
    }
}

/// The near side of the ping-pong.
fn ping(services: &Services, side: &FarSide, room: usize) -> anyhow::Result<Trips> {
    let (sender, receiver) = (publisher(&services.to_far)?, subscriber(&services.to_near)?);
    await_ports(services, side)?;
    let loan = || sender.loan_uninit().map_err(|error| anyhow!("loan: {error:?}"));
    let mut laps = Trips::new(room);
    let mut wrong = 0_u64;
    let mut next = if side.plain { None } else { Some(loan()?) };
    for trip in 0..side.warm_up + side.messages {
        if trip == side.warm_up {
            laps.start();
        }
        let sample = match next.take() {
            Some(sample) => sample,
            None => loan()?,
        };
        let sample = sample.write_payload([trip; 8]);
        sample.send().map_err(|error| anyhow!("send: {error:?}"))?;
        if !side.plain {
            next = Some(loan()?);
        }
        wrong += u64::from(receive(&receiver)? != [trip; 8]);
        if trip >= side.warm_up {
            laps.lap();
        }
    }
    drop(next);
    loan()?.write_payload([STOP; 8]).send().map_err(|error| anyhow!("send: {error:?}"))?;
    // The far side still reads from these ports: they stay until it has answered.
    receive(&receiver)?;
    ensure!(wrong == 0, "{wrong} messages came back wrong");
    Ok(laps)
}

/// The far side of the ping-pong: every message back, the last one too.
fn echo(services: &Services, side: &FarSide) -> anyhow::Result<()> {
    let (sender, receiver) = (publisher(&services.to_near)?, subscriber(&services.to_far)?);
    let loan = || sender.loan_uninit().map_err(|error| anyhow!("loan: {error:?}"));
    loop {
        let next = if side.plain { None } else { Some(loan()?) };
        let message = receive(&receiver)?;
        let next = match next {
            Some(sample) => sample,
            None => loan()?,
        };
        next.write_payload(message).send().map_err(|error| anyhow!("send: {error:?}"))?;
        if message.first() == Some(&STOP) {
            // The near side reads this answer through these ports; it drops its own ports right
            // after.
            let deadline = Instant::now() + PATIENCE;
            while services.to_near.dynamic_config().number_of_subscribers() > 0 {
                ensure!(Instant::now() < deadline, "the near iceoryx2 process did not end");
                thread::sleep(Duration::from_millis(1));
            }
            return Ok(());
        }
    }
}

/// The near side of the stream. When the buffer is full, `send` reports no recipient, and the
/// message is sent again. iceoryx2's own blocking strategy is not quicker, and it waits forever for
/// a subscriber that died.
fn publish(services: &Services, side: &FarSide) -> anyhow::Result<()> {
    let sender = publisher(&services.to_far)?;
    await_ports(services, side)?;
    for number in 0..side.warm_up + side.messages {
        let mut looks = 0_u64;
        loop {
            let sample = sender.loan_uninit().map_err(|error| anyhow!("loan: {error:?}"))?;
            let sent = sample.write_payload([number; 8]).send();
            if sent.map_err(|error| anyhow!("send: {error:?}"))? > 0 {
                break;
            }
            looks += 1;
            // Each look takes tens of nanoseconds: this is many seconds.
            ensure!(looks < 1 << 30, "the far iceoryx2 process stopped reading");
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while services.to_far.dynamic_config().number_of_subscribers() > 0 {
        ensure!(Instant::now() < deadline, "the far iceoryx2 process did not end");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The far side of the stream; the ticks that the counted messages took.
fn sink(services: &Services, side: &FarSide) -> anyhow::Result<u64> {
    let receiver = subscriber(&services.to_far)?;
    let mut wrong = 0_u64;
    let mut started = Clock::ticks();
    for number in 0..side.warm_up + side.messages {
        if number == side.warm_up {
            started = Clock::ticks();
        }
        wrong += u64::from(receive(&receiver)? != [number; 8]);
    }
    let ticks = Clock::ticks().wrapping_sub(started);
    ensure!(wrong == 0, "{wrong} messages arrived wrong or not at all");
    Ok(ticks)
}
