//! The measuring end: starts the other end if need be, joins its domain, and drives it through rounds.

use core::time::Duration;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::id::{Addr, Name};
use spinwire_dataplane::provider::{Provider, RemotePlace};
use spinwire_hostshim::affinity;
use spinwire_hostshim::domain::{Domain, DomainConfig};
use spinwire_hostshim::error::{Errno, OsError};
#[cfg(feature = "mlx5")]
use spinwire_hostshim::mlx5;
use spinwire_hostshim::plane::Plane;
#[cfg(feature = "verbs")]
use spinwire_hostshim::verbs;

use super::datagrams;
use super::ending::{self, Input};
use super::floor::{Floor, Witness};
use super::loans::{self, Loans};
use super::lossy::Exchange;
use super::network;
use super::options::{PairOptions, ProviderName};
use super::order::Order;
use super::server::{SERVER, STREAM_BUFFER_BYTES};
use super::station::{self, GONE, PATIENCE, Patience, Role, Station};
use crate::report::{self, Failure};

/// A connected measuring end.
#[derive(Debug)]
pub(crate) struct Client<'p, 'm, P, F> {
    pub(crate) station: Station<'m, P, F>,
    /// With `--zero-copy`.
    pub(crate) loans: Option<Loans<'p>>,
    pub(crate) server: Addr,
    pub(crate) cpus: [u32; 2],
    pub(crate) page: String,
    /// Where orders and messages may be lost.
    pub(crate) exchange: Option<Exchange>,
}

/// What is done with a connected client, over whatever provider.
pub(crate) trait Measure {
    /// What comes of it.
    type Result;

    /// Does it.
    fn run<P: Provider, F: Floor>(
        self,
        client: &Client<'_, '_, P, F>,
    ) -> Result<Self::Result, Failure>;
}

impl<P: Provider, F: Floor> Client<'_, '_, P, F> {
    /// Has the server prepare for an order.
    pub(crate) fn prepare(&self, order: Order) -> Result<(), Failure> {
        if let Some(exchange) = &self.exchange {
            return exchange.prepare(&self.station, self.server, order);
        }
        self.station.send_order(self.server, order)?;
        self.answer().map(|_ready| ())
    }

    /// Asks the server for a place in its memory.
    pub(crate) fn ask_for_place(&self, order: Order) -> Result<RemotePlace, Failure> {
        self.station.send_order(self.server, order)?;
        match self.station.next_order(Patience::Limited)? {
            (_, Order::Place { address, key }) => Ok(RemotePlace { address, key }),
            _ => Err("the server does not say where to write".into()),
        }
    }

    /// The server's answer.
    pub(crate) fn answer(&self) -> Result<u64, Failure> {
        match self.station.next_order(Patience::Limited)? {
            (_, Order::Done { value }) => Ok(value),
            _ => Err("what listens there does not answer as it should; remedy: have it be a `--listen` of this command, of the same version".into()),
        }
    }
}

/// The time that it has to end by itself.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// How long a process that has closed its standard output takes to end, at most.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// How a process has ended that should not have, and where to look for the reason.
pub(super) fn how(status: ExitStatus) -> String {
    // Whom a signal has ended, that has said nothing.
    let remedy = if status.signal().is_some() {
        "dmesg | tail # says whether the kernel did it, for want of memory"
    } else {
        "see what it says above"
    };
    format!("({status}); remedy: {remedy}")
}

fn too_early(status: ExitStatus) -> Failure {
    format!("the second process ended too early {}", how(status)).into()
}

/// The other end as a process of ours; killed where it does not end by itself.
#[derive(Debug)]
pub(super) struct Other(pub(super) Child);

impl Other {
    pub(super) fn start(command: &str, name: &str, options: &PairOptions) -> Result<Self, Failure> {
        let (a, b) = options.placement()?;
        let size = options.sizes().into_iter().max().unwrap_or(64);
        let child = Command::new(std::env::current_exe()?)
            .args([command, "--listen", name, "--json"])
            .args(["--cpus", &format!("{a},{b}"), "--size", &size.to_string()])
            .args(options.zero_copy.then_some("--zero-copy"))
            .args(options.datagrams.then_some("--datagrams"))
            .args(["--fabric-type", options.fabric_type.as_str()])
            // It ends with this process, however that ends.
            .arg("--until-input-ends")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        // The program that runs is there: what is lacking is descriptors, or memory.
        let child = child.map_err(|e| OsError::new("the second process", Errno::from_io(&e)))?;
        Ok(Self(child))
    }

    /// Starts one that listens at `place`, has `measure` go on with what it says of where that is, and waits for its end.
    pub(super) fn beside<T>(
        (command, place): (&str, &str),
        options: &PairOptions,
        measure: impl FnOnce(&str) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut other = Self::start(command, place, options)?;
        let measured = measure(&other.listening()?).map_err(|failure| other.explain(failure))?;
        other.finish().map(|()| measured)
    }

    /// Where it says that it listens.
    pub(super) fn listening(&mut self) -> Result<String, Failure> {
        let mut told = String::new();
        if let Some(out) = self.0.stdout.take() {
            BufReader::new(out).read_line(&mut told)?;
        }
        let told: serde_json::Value = serde_json::from_str(&told).unwrap_or_default();
        match told.get("listening").and_then(serde_json::Value::as_str) {
            Some(text) => Ok(text.to_owned()),
            None => Err(self.says_nothing()),
        }
    }

    /// Fails where it has ended.
    fn check(&mut self) -> Result<(), Failure> {
        let ended = self.0.try_wait()?;
        ended.map_or(Ok(()), |status| Err(too_early(status)))
    }

    /// A failure of this end; where it comes from the end of the other one, with how that has ended. A signal is never an answer to what this end does.
    fn explain(&mut self, failure: Failure) -> Failure {
        let is_told = failure.to_string() == GONE;
        match self.ended_within(LAST_WORDS) {
            Ok(Some(status)) if is_told && !status.success() => {
                format!("{GONE} {}", how(status)).into()
            }
            Ok(Some(status)) if status.signal().is_some() => {
                format!("{failure}\n  because: {}", too_early(status)).into()
            }
            _ => failure,
        }
    }

    /// How it has ended, where it does that so soon.
    fn ended_within(&mut self, time: Duration) -> io::Result<Option<ExitStatus>> {
        let since = Instant::now();
        loop {
            match self.0.try_wait()? {
                None if since.elapsed() < time => std::thread::sleep(Duration::from_millis(1)),
                ended => return Ok(ended),
            }
        }
    }

    /// Why it does not say where it listens. It says nothing more to anybody who could hear it, so it is about to end.
    fn says_nothing(&mut self) -> Failure {
        match self.ended_within(ENDS_WITHIN) {
            Ok(Some(status)) => too_early(status),
            Ok(None) => "the second process does not say where it listens".into(),
            Err(e) => e.into(),
        }
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        match self.ended_within(PATIENCE)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("the second process failed {}", how(status)).into()),
            None => Err("the second process does not end".into()),
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted, or be about to say why it does.
        if !matches!(self.ended_within(LAST_WORDS), Ok(None)) {
            return;
        }
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Runs `measure` on a connected client, whichever way the arguments say that the other end comes to be.
pub(crate) fn with_client<M: Measure>(
    command: &str,
    options: &PairOptions,
    measure: M,
) -> Result<M::Result, Failure> {
    options.check()?;
    match options.provider() {
        ProviderName::Tcp => return network::with_client(command, options, measure),
        ProviderName::Udp => return datagrams::with_client(command, options, measure),
        #[cfg(feature = "verbs")]
        ProviderName::Verbs => {
            return super::verbs::with_client::<verbs::Library, M>(command, options, measure);
        }
        #[cfg(feature = "mlx5")]
        ProviderName::Mlx5 => {
            return super::verbs::with_client::<mlx5::Direct, M>(command, options, measure);
        }
        #[cfg(feature = "libfabric")]
        ProviderName::Ofi => return super::ofi::with_client(command, options, measure),
        // The check has refused what is not in this build.
        #[cfg(not(feature = "verbs"))]
        ProviderName::Verbs => {}
        #[cfg(not(feature = "mlx5"))]
        ProviderName::Mlx5 => {}
        #[cfg(not(feature = "libfabric"))]
        ProviderName::Ofi => {}
        ProviderName::Shm => {}
    }
    if let Some(name) = &options.connect {
        let domain = Domain::join(name, &DomainConfig::default())?;
        return with_domain((name, &domain), options, &mut || Ok(()), measure);
    }
    let own = || format!("{command}-{}", std::process::id());
    let name = options.meeting_place()?.unwrap_or_else(own);
    let mut other = Other::start(command, &name, options)?;
    // Only then is what has this name its own.
    let made = other.listening();
    let measured = made.and_then(|_name| {
        let domain = Domain::join(&name, &DomainConfig::default())?;
        let measured = with_domain((&name, &domain), options, &mut || other.check(), measure);
        measured.map_err(|failure| other.explain(failure))
    });
    match measured {
        Ok(measured) => other.finish().map(|()| measured),
        Err(failure) => {
            let maker = other.0.id();
            drop(other);
            // What the killed process left is ours to clear away; it may not have come so far.
            ending::remove_made_by(maker, &name);
            Err(failure)
        }
    }
}

/// Goes on as long as `other` does not fail until the other end is met; from then on it is seen where it is.
fn with_domain<M: Measure>(
    (name, domain): (&str, &Domain),
    options: &PairOptions,
    other: &mut dyn FnMut() -> Result<(), Failure>,
    measure: M,
) -> Result<M::Result, Failure> {
    let largest = options.sizes().into_iter().max().unwrap_or(64);
    let pool = loans::open(name, options, largest)?;
    let most = domain.segment().geometry().message_bytes_max();
    if largest > most && !options.zero_copy {
        return Err(format!("--size: the segment carries messages of up to {most} bytes; start the listening end with --size {largest}").into());
    }
    let (cpu, other_cpu) = options.placement()?;
    let role = Role {
        name: "client",
        buffer_bytes: largest.max(STREAM_BUFFER_BYTES),
        yields: options.shares_cpu()?,
        input: Input::Ignored,
    };
    let mut memory = Plane::memory(station::arena_bytes(&role))?;
    let bump = Plane::arena(&mut memory);
    affinity::pin(cpu)?;
    let handle = pool.as_ref().map(|pool| pool.handle(&bump)).transpose()?;
    let loans = handle.as_ref().map(|handle| Loans::place(handle, &bump)).transpose()?;
    let station = Station::open(domain, &bump, &role)?;
    let server = connect(&station, other)?;
    let page = domain.mapping().page().to_string();
    let cpus = [cpu, other_cpu];
    let client = Client { station, loans, server, cpus, page, exchange: None };
    let measured = measure.run(&client)?;
    client.station.send_order(server, Order::Bye)?;
    Ok(measured)
}

fn connect<P: Provider, F: Witness>(
    station: &Station<'_, P, F>,
    other: &mut dyn FnMut() -> Result<(), Failure>,
) -> Result<Addr, Failure> {
    let server = Name::new(SERVER)?;
    let since = Instant::now();
    loop {
        match station.endpoint.connect(&server) {
            Err(PostError::Misuse(Misuse::UnknownAddress)) if since.elapsed() < PATIENCE => {
                other()?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(PostError::Misuse(Misuse::UnknownAddress)) => {
                return Err("the segment is there, but nobody listens in it; remedy: spinwire ps # shows who is in it".into());
            }
            other => return Ok(other?),
        }
    }
}

/// Says on a terminal how far a long measurement is.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    since: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: false, since: Instant::now() }
    }

    /// Shows `done` of `all`, once it has taken long enough to be worth it.
    pub(crate) fn show(&mut self, size: usize, done: u32, all: u32) {
        let long = self.since.elapsed() > Duration::from_millis(500);
        if long && io::stderr().is_terminal() {
            report::complain(&format!("\r{size} bytes: round {done} of {all}  "));
            self.shown = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            report::complain(&format!("\r{:50}\r", ""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second process as a few words of a shell.
    fn second(words: &str) -> Other {
        let mut shell = Command::new("sh");
        shell.args(["-c", words]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Other(shell.spawn().unwrap())
    }

    #[test]
    fn who_ends_before_it_listens_is_told_with_how() {
        for (words, ended) in [
            ("kill -KILL $$", "too early (signal: 9 (SIGKILL)); remedy: dmesg"),
            ("exit 2", "too early (exit status: 2); remedy: see what it says above"),
            ("echo; exec >&-; sleep 0.01; kill -XFSZ $$", "(signal: 25 (SIGXFSZ)"),
        ] {
            let failed = second(words).listening().unwrap_err().to_string();
            assert!(failed.contains(ended), "{words}: {failed}");
        }
    }
}
