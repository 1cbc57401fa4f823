//! What the serving end does when it has to end in the middle: the names that it has made go with it.
//!
//! ```text
//!   SIGINT, SIGTERM, SIGHUP    somebody ends it            removes its names, ends by that signal
//!   end of standard input      who started it has ended    gives up waiting, and so removes its names, and ends
//! ```
//!
//! Who has made names has a thread that sleeps until such a signal comes: without it Ctrl-C would leave segments behind. Who waits for a client
//! looks at his input now and then (`Input`), or would wait for ever for one that was killed before it came. No thread does that:
//! a process that has another one pays for it with each system call, by an atomic operation for the descriptor in the kernel, and by what
//! the C library does about cancelling; and the doorbell of Soft-RoCE is a `write(2)`. So the end that measures over libfabric looks between two
//! messages whether it was told to end (`Told`); over its `shm`, which may never come back, there are threads. Who is ended by SIGKILL leaves his
//! names to `spinwire rm --dead`.

#[cfg(feature = "libfabric")]
use core::time::Duration;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
#[cfg(feature = "libfabric")]
use std::os::unix::process::parent_id;
#[cfg(feature = "libfabric")]
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
#[cfg(feature = "libfabric")]
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use spinwire_dataplane::shm::copy_header;
#[cfg(feature = "libfabric")]
use spinwire_dataplane::sync::Ordering;
#[cfg(feature = "libfabric")]
use spinwire_hostshim::libfabric::remove_shm_left_by;
use spinwire_hostshim::liveness::has_ended;
use spinwire_hostshim::mem::SharedMapping;

use super::loans;
use super::options::PairOptions;
use crate::report::Failure;

/// From now on the names of the domain `name` and of its pool are removed when this process is told to end.
pub(super) fn takes_names_along(name: &str) -> Result<(), Failure> {
    let name = name.to_owned();
    before_a_signal_ends_this(move || remove_made_by(std::process::id(), &name))
}

/// From now on what libfabric's `shm` has of this process in `/dev/shm` goes when it is told to end (the library itself does not hear SIGHUP); and
/// where its input is watched, this process ends with that, after `last`. Threads see to both: the library waits for ever for a lock that
/// a process has held which crashed or was killed. And they cost nothing, for it does without the kernel.
#[cfg(feature = "libfabric")]
pub(super) fn ends_in_spite_of_shm(
    input: Input,
    last: impl FnOnce() + Send + 'static,
) -> Result<(), Failure> {
    if let Input::Watched = input {
        let starter = parent_id();
        when_input_ends(move || {
            last();
            let _as_many = remove_shm_left_by(std::process::id());
            remove_left_by_starter(starter);
        })?;
    }
    before_a_signal_ends_this(|| {
        let _as_many = remove_shm_left_by(std::process::id());
    })
}

/// The end of who started this may be seen elsewhere first, and this process ends by that: then what he has left of libfabric's `shm` goes, too.
#[cfg(feature = "libfabric")]
pub(super) fn clear_after(starter: u32, input: Input) {
    if let Input::Watched = input {
        for _ in 0..LAST_WORDS_MS {
            if input.goes_on().is_err() {
                return remove_left_by_starter(starter);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Who was killed has left his. Whoever comes to process 1 was given to it when his starter had ended already, and knows no more who that was.
#[cfg(feature = "libfabric")]
fn remove_left_by_starter(starter: u32) {
    if starter != 1 {
        let _as_many = remove_shm_left_by(starter);
    }
}

/// Milliseconds between the first thing of a process that is seen to end and the last one.
#[cfg(feature = "libfabric")]
const LAST_WORDS_MS: u32 = 50;

/// The standard input of a process that is to end with it, or of one that is not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    /// Whoever started this holds the other end, and says nothing.
    Watched,
    /// Anything.
    Ignored,
}

impl Input {
    /// That of the second process of a measurement is watched.
    pub(crate) const fn of(options: &PairOptions) -> Self {
        if options.until_input_ends { Self::Watched } else { Self::Ignored }
    }

    /// Fails where it is watched and has ended. Takes a system call or two.
    pub(crate) fn goes_on(self) -> Result<(), Failure> {
        match self {
            // A descriptor of its own: the lock of the standard input is a thread's that waits for its end, where there is one.
            Self::Watched if has_ended(&mut File::from(own(io::stdin())?))? => {
                Err("whoever started this has ended".into())
            }
            Self::Watched | Self::Ignored => Ok(()),
        }
    }
}

/// Does that when the standard input of this process ends, and ends it.
#[cfg(feature = "libfabric")]
fn when_input_ends(what: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    thread::Builder::new().name("spinwire-input".to_owned()).spawn(move || {
        let _nothing_is_said_there = io::copy(&mut io::stdin(), &mut io::sink());
        what();
        low_level::exit(2);
    })?;
    Ok(())
}

/// Whether this process was told to end, for who looks between two messages: no thread waits for that. Told again, it ends at once.
#[cfg(feature = "libfabric")]
pub(super) struct Told(Vec<(i32, Flag)>);

/// Whether a signal has come.
#[cfg(feature = "libfabric")]
type Flag = Box<dyn Fn() -> bool + Sync>;

#[cfg(feature = "libfabric")]
impl Told {
    /// By nobody: whoever is told to end ends.
    pub(super) const fn by_nobody() -> Self {
        Self(Vec::new())
    }

    /// From now on the three signals end this process no more, the first time.
    pub(super) fn listen() -> io::Result<Self> {
        let again = Arc::default();
        let mut all = Vec::<(i32, Flag)>::new();
        for signal in heard() {
            let told = Arc::default();
            // In this order: what ends it looks at what the one behind it has set before.
            flag::register_conditional_default(signal, Arc::clone(&again))?;
            flag::register(signal, Arc::clone(&again))?;
            flag::register(signal, Arc::clone(&told))?;
            all.push((signal, Box::new(move || told.load(Ordering::Relaxed))));
        }
        Ok(Self(all))
    }

    fn signal(&self) -> Option<i32> {
        let mut all = self.0.iter();
        all.find_map(|(signal, has_come)| has_come().then_some(*signal))
    }

    /// Fails where it was.
    #[inline]
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.signal().is_none() { Ok(()) } else { Err("told to end".into()) }
    }

    /// Ends this process by the signal that has told it to, if one has.
    pub(super) fn end(&self) {
        if let Some(signal) = self.signal() {
            let _never_refused = low_level::emulate_default_handler(signal);
        }
    }
}

fn own(input: impl AsFd) -> io::Result<OwnedFd> {
    input.as_fd().try_clone_to_owned()
}

/// The signals that end a process, without those that this one ignores: what who started it has it ignore (nohup, a shell's job
/// in the background), it goes on ignoring.
fn heard() -> impl Iterator<Item = i32> {
    let ignored = ignored();
    let all = [SIGHUP, SIGINT, SIGTERM];
    all.into_iter().filter(move |signal| ignored >> signal.wrapping_sub(1) & 1 == 0)
}

/// Does that before a signal ends this process. Who is killed does nothing any more.
pub(super) fn before_a_signal_ends_this(what: impl Fn() + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new(heard())?;
    thread::Builder::new().name("spinwire-signal".to_owned()).spawn(move || {
        for signal in signals.forever() {
            what();
            // It ends this process, as all three do by default.
            let _never_refused = low_level::emulate_default_handler(signal);
        }
    })?;
    Ok(())
}

/// The signals that this process ignores, bit 0 for signal 1: `SigIgn` of proc_pid_status(5). None where that cannot be read.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Removes the names of a domain and of its pool, as far as they stand for segments that this process has made: a name that is somebody
/// else's stays his, also where this end was told to make one of that name.
pub(super) fn remove_made_by(maker: u32, domain: &str) {
    for name in [domain, &loans::pool_name(domain)] {
        let Ok(mapping) = SharedMapping::look(name) else { continue };
        let made_by = copy_header(mapping.lines()).map(|header| header.creator_pid);
        if made_by == Ok(u64::from(maker)) {
            let _somebody_was_faster = mapping.unlink();
        }
    }
}
