//! What the serving end does when it has to end in the middle: the names that it has made go with it.
//!
//! ```text
//!   SIGINT, SIGTERM, SIGHUP    somebody ends it            removes its names, ends by that signal
//!   end of standard input      who started it has ended    removes its names, ends
//! ```
//!
//! Two threads wait for that, and sleep until then. Without them Ctrl-C would leave segments behind, and a second process whose
//! client was killed before it came would wait for ever. Who is ended by SIGKILL leaves his names to `spinwire rm --dead`.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use spinwire_dataplane::shm::copy_header;
use spinwire_hostshim::mem::SharedMapping;

use super::loans;
use crate::report::Failure;

/// From now on the names of the domain `name` and of its pool are removed when this process is told to end; and when its standard input
/// ends, if `with_input`.
pub(super) fn takes_names_along(name: &str, with_input: bool) -> Result<(), Failure> {
    let name = name.to_owned();
    if with_input {
        let name = name.clone();
        when_input_ends(move || remove_made_by(std::process::id(), &name))?;
    }
    before_a_signal_ends_this(move || remove_made_by(std::process::id(), &name))
}

/// Does that when the standard input of this process ends, and ends it.
pub(super) fn when_input_ends(what: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    thread::Builder::new().name("spinwire-input".to_owned()).spawn(move || {
        let _nothing_is_said_there = io::copy(&mut io::stdin(), &mut io::sink());
        what();
        low_level::exit(2);
    })?;
    Ok(())
}

/// Does that before a signal ends this process. Who is killed does nothing any more.
pub(super) fn before_a_signal_ends_this(what: impl Fn() + Send + 'static) -> Result<(), Failure> {
    // What who started it has it ignore (nohup, a shell's job in the background), it goes on ignoring.
    let ignored = ignored();
    let is_heard = |signal: &i32| ignored >> signal.wrapping_sub(1) & 1 == 0;
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM].iter().filter(|s| is_heard(s)))?;
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
