//! The two processors that everything runs on, threads pinned to them, and whether they were ours.

use core::fmt;
use core::str::FromStr;
use std::fs;
use std::process;
use std::sync::Barrier;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use core_affinity::CoreId;
use serde::Serialize;

/// How long two threads may take over one measurement.
const PATIENCE: Duration = Duration::from_secs(120);

/// The near processor (who pings or sends) and the far one (who echoes or receives).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cpus {
    /// Runs who pings or sends.
    pub(crate) near: usize,
    /// Runs who echoes or receives.
    pub(crate) far: usize,
}

impl FromStr for Cpus {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (near, far) =
            text.split_once(',').context("two processors are wanted, with a comma between: 0,1")?;
        let parse = |word: &str| {
            word.trim().parse::<usize>().with_context(|| format!("`{word}` is no processor number"))
        };
        let cpus = Self { near: parse(near)?, far: parse(far)? };
        if cpus.near == cpus.far {
            bail!("both sides on processor {}: a bounce needs two", cpus.near);
        }
        Ok(cpus)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.near, self.far)
    }
}

impl Cpus {
    /// Checks that this process may run on both.
    pub(crate) fn check(self) -> anyhow::Result<()> {
        let allowed = core_affinity::get_core_ids().context("the affinity mask is unreadable")?;
        for cpu in [self.near, self.far] {
            if !allowed.iter().any(|core| core.id == cpu) {
                let ids: Vec<String> = allowed.iter().map(|core| core.id.to_string()).collect();
                bail!("processor {cpu} is not ours to use; these are: {}", ids.join(" "));
            }
        }
        Ok(())
    }

    /// Runs `near` and `far` on two pinned threads that start together, and waits for both.
    pub(crate) fn run_pair<A: Send, B: Send>(
        self,
        near: impl FnOnce() -> A + Send,
        far: impl FnOnce() -> B + Send,
    ) -> anyhow::Result<(A, B)> {
        self.check()?;
        let _watchdog = self.watchdog();
        let start = Barrier::new(2);
        thread::scope(|scope| {
            let far = scope.spawn(|| {
                let pinned = pin(self.far);
                start.wait();
                pinned.map(|()| far())
            });
            let near = scope.spawn(|| {
                let pinned = pin(self.near);
                start.wait();
                pinned.map(|()| near())
            });
            let near = near.join().map_err(|_panic| anyhow!("the near thread panicked"))??;
            let far = far.join().map_err(|_panic| anyhow!("the far thread panicked"))??;
            Ok((near, far))
        })
    }
}

impl Cpus {
    /// Ends this program where two spinning threads do not come to an end, as when somebody of
    /// higher priority holds one of the processors. It sleeps until then, and until it is dropped.
    fn watchdog(self) -> Sender<()> {
        let (alive, wait) = channel::<()>();
        thread::spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!(
                    "peers: two threads on processors {self} got nowhere in {} s; something else \
                     holds those processors (`top` shows what)",
                    PATIENCE.as_secs()
                );
                process::exit(2);
            }
        });
        alive
    }
}

/// Pins the calling thread; a child that it starts inherits the pin.
pub(crate) fn pin(cpu: usize) -> anyhow::Result<()> {
    if core_affinity::set_for_current(CoreId { id: cpu }) {
        Ok(())
    } else {
        bail!("this thread cannot be pinned to processor {cpu}")
    }
}

/// Runs `body` on a thread of its own, pinned to `cpu`.
pub(crate) fn on<T: Send>(
    cpu: usize,
    body: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                pin(cpu)?;
                body()
            })
            .join()
            .map_err(|_panic| anyhow!("the thread pinned to processor {cpu} panicked"))?
    })
}

/// How long anybody has waited for a processor, as the kernel counts it (`/proc/pressure/cpu`).
///
/// Two pinned threads wait for nobody. Where others run, rates suffer that need both processors all of
/// the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pressure {
    at: Instant,
    total_us: u64,
}

impl Pressure {
    /// From now on; absent where the kernel does not count.
    pub(crate) fn begin() -> Option<Self> {
        let total_us = waited_us(&fs::read_to_string("/proc/pressure/cpu").ok()?)?;
        Some(Self { at: Instant::now(), total_us })
    }

    /// The part of the time until now in which at least one thread was ready and did not run.
    pub(crate) fn end(self) -> Option<f64> {
        let now = Self::begin()?;
        let us = now.at.duration_since(self.at).as_micros();
        Some(now.total_us.checked_sub(self.total_us)? as f64 / us.max(1) as f64)
    }
}

/// The total of the line `some`.
fn waited_us(pressure: &str) -> Option<u64> {
    let line = pressure.lines().find(|line| line.starts_with("some "))?;
    line.split_once("total=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_some_is_read() {
        let text = "some avg10=99.17 avg60=98.98 avg300=96.22 total=12576142466\n\
            full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(waited_us(text), Some(12_576_142_466));
        assert_eq!(waited_us("full avg10=0.00 total=7\n"), None);
    }

    #[test]
    fn two_different_processors_are_wanted() {
        assert_eq!("0,1".parse::<Cpus>().unwrap(), Cpus { near: 0, far: 1 });
        assert!("1".parse::<Cpus>().is_err());
        assert!("1,1".parse::<Cpus>().is_err());
        assert!("0,x".parse::<Cpus>().is_err());
    }
}
