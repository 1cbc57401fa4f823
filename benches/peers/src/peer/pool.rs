//! Spinwire's pool of buffers: taken and let go in one process, looked up in another, taken and let
//! go by two at the same time.
//!
//! Every measurement makes a pool in `/dev/shm` and runs in processes of its own, which are this
//! program again and open the pool by its name; this process makes the pool, holds the buffer that
//! is looked up, and sleeps. Processes that run at the same time begin and end at times that they
//! are told.

use core::hint::black_box;
use core::time::Duration;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use spinwire_dataplane::pool::PoolGeometry;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolHandle};
use spinwire_layouts::shm::BufferId;

use super::Peer;
use crate::clock::Clock;
use crate::cpu;
use crate::process::{LIMIT, Running};
use crate::sample::{BLOCK, Rtt, Sample, Stream, Trips};
use crate::schedule::Plan;
use crate::work::{Subject, Work};

/// Buffers of the class.
const BUFFERS: u32 = 64;

/// Laps of [`BLOCK`] operations that are kept of a given time.
const LAPS: usize = 1 << 20;

/// Within this time every process has opened the pool.
const OPENED_WITHIN: Duration = Duration::from_millis(150);

/// A row of the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pool {
    /// One process at a time.
    One,
    /// The slower of two processes.
    Two,
    /// The same without the other.
    Alone,
}

/// What a process of the pool's rows is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct FarSide {
    /// What it does.
    #[arg(long)]
    role: Role,
    /// The name of the pool.
    #[arg(long)]
    name: String,
    /// The processor it is pinned to.
    #[arg(long)]
    cpu: usize,
    /// Bytes of a buffer.
    #[arg(long)]
    size: usize,
    /// The buffer to look up.
    #[arg(long, default_value_t = 0)]
    id: u64,
    /// Operations that count.
    #[arg(long, default_value_t = 0)]
    operations: u32,
    /// When to begin, in nanoseconds since 1970.
    #[arg(long, default_value_t = 0)]
    begin_ns: u64,
    /// For how long.
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Takes buffers and lets go of them; says how long that took.
    Acquire,
    /// Looks up a buffer and lets go of it; says how long that took.
    Get,
    /// Takes buffers and lets go of them for a given time; says how often.
    Churn,
}

/// What a process prints.
#[derive(Debug, Deserialize, Serialize)]
struct Said {
    p50_ns: Option<f64>,
    p99_ns: Option<f64>,
    /// Of one operation.
    mean_ns: f64,
}

impl Peer for Pool {
    fn name(&self) -> &'static str {
        match self {
            Self::One => "spinwire pool",
            Self::Two => "two processes",
            Self::Alone => "one process",
        }
    }

    fn word(&self) -> &'static str {
        "pool"
    }

    fn measures(&self, work: Work) -> bool {
        match work.subject {
            Subject::Acquire | Subject::Get => matches!(self, Self::One),
            Subject::Two => matches!(self, Self::Two | Self::Alone),
            _ => false,
        }
    }

    fn rival(&self) -> Option<&'static str> {
        matches!(self, Self::Alone).then(|| Self::Two.name())
    }

    fn probe(&self, _plan: &Plan) -> Result<String, String> {
        let made = Made::new(64).map_err(|error| format!("no pool can be made here: {error:#}"))?;
        let what = match self {
            Self::One => "a guard taken and dropped",
            Self::Two => "the slower of two processes at one class",
            Self::Alone => "the same without the other",
        };
        Ok(format!("{what}, pool of {BUFFERS} buffers in {}", made.pool.name()))
    }

    fn measure(&self, work: Work, plan: &Plan) -> anyhow::Result<Sample> {
        let made = Made::new(work.size)?;
        let (near, far) = (plan.cpus.near, plan.cpus.far);
        let side = FarSide {
            role: Role::Acquire,
            name: made.pool.name().to_owned(),
            cpu: near,
            size: work.size as usize,
            id: 0,
            operations: plan.effort.operations(),
            begin_ns: 0,
            seconds: plan.effort.seconds(),
        };
        match (work.subject, self) {
            (Subject::Get, _) => made.with_handle(|handle| {
                let guard = handle.acquire(work.size as usize)?.publish()?;
                let id = guard.id().as_raw();
                Ok(FarSide { role: Role::Get, id, ..side }.start()?.said()?.into_rtt())
            }),
            (Subject::Two, _) => {
                let begin = SystemTime::now().duration_since(UNIX_EPOCH)? + OPENED_WITHIN;
                let begin_ns = u64::try_from(begin.as_nanos())?;
                let one = FarSide { role: Role::Churn, begin_ns, ..side };
                let other = FarSide { cpu: far, ..one.clone() };
                let one = one.start()?;
                let slower_ns = match self {
                    Self::Two => other.start()?.said()?.middle()?.max(one.said()?.middle()?),
                    Self::One | Self::Alone => one.said()?.middle()?,
                };
                Ok(Sample::Stream(Stream { messages_per_s: 1e9 / slower_ns, ..Stream::default() }))
            }
            _ => Ok(side.start()?.said()?.into_rtt()),
        }
    }
}

/// A pool that goes with this value.
#[derive(Debug)]
struct Made {
    pool: BufferPool,
}

impl Made {
    fn new(size: u32) -> anyhow::Result<Self> {
        let geometry = PoolGeometry::new(4).class(u64::from(size), BUFFERS);
        let config = PoolConfig { geometry, ..PoolConfig::default() };
        let name = format!("peers-pool-{}", std::process::id());
        let made = BufferPool::create(&name, &config).map_err(|error| anyhow!("{error}"))?;
        Ok(Self { pool: made })
    }

    fn with_handle<T>(
        &self,
        body: impl FnOnce(&PoolHandle<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        with_handle(&self.pool, body)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(error) = self.pool.unlink() {
            eprintln!("peers: the pool {} stays: {error}", self.pool.name());
        }
    }
}

fn with_handle<T>(
    pool: &BufferPool,
    body: impl FnOnce(&PoolHandle<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut memory = Plane::memory(pool.handle_bytes())?;
    let bump = Plane::arena(&mut memory);
    let handle = pool.handle(&bump)?;
    body(&handle)
}

impl FarSide {
    fn start(&self) -> anyhow::Result<Started> {
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        let role = match self.role {
            Role::Acquire => "acquire",
            Role::Get => "get",
            Role::Churn => "churn",
        };
        command.args(["pool-far-side", "--role", role, "--name", &self.name]);
        let mut number = |flag: &str, value: String| {
            command.args([flag, &value]);
        };
        number("--cpu", self.cpu.to_string());
        number("--size", self.size.to_string());
        number("--id", self.id.to_string());
        number("--operations", self.operations.to_string());
        number("--begin-ns", self.begin_ns.to_string());
        number("--seconds", self.seconds.to_string());
        Ok(Started(Running::start(command, None)?))
    }
}

/// A process of the pool's rows.
#[derive(Debug)]
struct Started(Running);

impl Started {
    fn said(self) -> anyhow::Result<Said> {
        let said = self.0.finish(LIMIT)?.stdout;
        serde_json::from_str(&said).with_context(|| format!("the other process said {said}"))
    }
}

impl Said {
    /// Bears the interruptions that a mean does not.
    fn middle(&self) -> anyhow::Result<f64> {
        self.p50_ns.context("the other process measured nothing")
    }

    fn into_rtt(self) -> Sample {
        let Self { p50_ns, p99_ns, mean_ns } = self;
        Sample::Rtt(Rtt { p50_ns, p99_ns, mean_ns, ..Rtt::default() })
    }
}

/// What the hidden subcommand runs.
pub(crate) fn run_far_side(side: &FarSide) -> anyhow::Result<()> {
    let clock = Clock::calibrate();
    cpu::pin(side.cpu)?;
    let pool = BufferPool::open(&side.name, &PoolConfig::default())?;
    let said = with_handle(&pool, |handle| match side.role {
        Role::Acquire => {
            let laps = Trips::of_blocks(side.operations, || acquire(handle, side.size))?;
            Ok(Said::of(laps.finish_blocks(&clock)))
        }
        Role::Get => {
            let id = BufferId::from_raw(side.id);
            let laps = Trips::of_blocks(side.operations, || {
                let guard = handle.get(id)?;
                ensure!(black_box(&guard).len() == side.size, "another buffer");
                Ok(())
            })?;
            Ok(Said::of(laps.finish_blocks(&clock)))
        }
        Role::Churn => churn(handle, side, &clock),
    })?;
    println!("{}", serde_json::to_string(&said)?);
    Ok(())
}

impl Said {
    const fn of(rtt: Rtt) -> Self {
        Self { p50_ns: rtt.p50_ns, p99_ns: rtt.p99_ns, mean_ns: rtt.mean_ns }
    }
}

#[inline]
fn acquire(handle: &PoolHandle<'_>, size: usize) -> anyhow::Result<()> {
    let guard = handle.acquire(size)?;
    ensure!(black_box(&guard).len() == size, "another buffer");
    Ok(())
}

/// Operations from the beginning to the end of the time, which others have as well.
fn churn(handle: &PoolHandle<'_>, side: &FarSide, clock: &Clock) -> anyhow::Result<Said> {
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let left = side.begin_ns.checked_sub(now).context("the pool was opened too late")?;
    let begin = Instant::now() + Duration::from_nanos(left);
    while Instant::now() < begin {
        acquire(handle, side.size)?;
    }
    let end = Duration::from_secs_f64(side.seconds);
    let (mut laps, started) = (Trips::new(LAPS), Instant::now());
    laps.start();
    while started.elapsed() < end {
        for _ in 0..BLOCK {
            acquire(handle, side.size)?;
        }
        laps.lap();
    }
    Ok(Said::of(laps.finish_blocks(clock)))
}
