//! `/proc/PID/stat`, as far as it tells who a process is and whether it lives: proc_pid_stat(5).
//!
//! ```text
//!   4711 (any ) name) S 1 4711 ...
//!   1    2            3 4 ...        counted from one; the name may hold spaces and brackets
//! ```

/// The fields that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stat {
    /// Field 3: one letter.
    state: u8,
    /// Field 20.
    threads: u64,
    /// Field 22: clock ticks after boot.
    pub(super) start_time: u64,
}

impl Stat {
    /// None for anything that is not a line of that form.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        // The name is the only field that can hold a bracket, so the last one ends it.
        let end_of_name = line.iter().rposition(|b| *b == b')')?;
        let rest = core::str::from_utf8(line.get(end_of_name.checked_add(1)?..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        // `fields` stands at field 4 now.
        let threads = fields.nth(20 - 4)?.parse().ok()?;
        let start_time = fields.nth(22 - 21)?.parse().ok()?;
        let &[state] = state.as_bytes() else {
            return None;
        };
        Some(Self { state, threads, start_time })
    }

    /// Z and X are the states after the end. A leader that left its other threads running shows Z as well.
    pub(super) const fn is_dead(self) -> bool {
        matches!(self.state, b'X' | b'x') || (self.state == b'Z' && self.threads <= 1)
    }

    /// T: stopped by a signal; t: by a debugger.
    pub(super) const fn is_stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, state: &str, threads: u64) -> String {
        // Fields 4 to 19 are told apart from the ones that matter by being 4 to 19.
        let middle: Vec<String> = (4..20).map(|n| n.to_string()).collect();
        format!("4711 ({name}) {state} {} {threads} 0 987654 23 24\n", middle.join(" "))
    }

    #[test]
    fn names_cannot_shift_the_fields() {
        for name in ["cat", "a b", ") Z 1 1 1", "((", "))))", ""] {
            let stat = Stat::parse(line(name, "S", 3).as_bytes()).unwrap();
            assert_eq!(stat, Stat { state: b'S', threads: 3, start_time: 987_654 }, "{name}");
        }
        let mut bytes = b"1 (\xff\xfe".to_vec();
        bytes.extend_from_slice(line("", "S", 1).split_once('(').unwrap().1.as_bytes());
        assert_eq!(Stat::parse(&bytes).unwrap().start_time, 987_654);
    }

    #[test]
    fn verdict_by_state() {
        let is = |state, threads| Stat::parse(line("x", state, threads).as_bytes()).unwrap();
        for state in ["R", "S", "D", "I", "T", "t", "W", "P"] {
            assert!(!is(state, 1).is_dead(), "{state}");
        }
        assert!(is("Z", 1).is_dead() && is("Z", 0).is_dead() && is("X", 1).is_dead());
        assert!(!is("Z", 2).is_dead(), "the leader ended, its threads did not");
        assert!(is("T", 1).is_stopped() && is("t", 1).is_stopped() && !is("S", 1).is_stopped());
    }

    #[test]
    fn cut_lines_are_refused() {
        let whole = line("x", "S", 1);
        let needed = whole.find(" 23 24").unwrap();
        for cut in 0..needed - "987654".len() {
            assert_eq!(Stat::parse(&whole.as_bytes()[..cut]), None, "{cut}");
        }
        assert_eq!(Stat::parse(line("x", "SS", 1).as_bytes()), None);
    }

    #[test]
    fn reads_the_kernels_own() {
        let bytes = std::fs::read("/proc/self/stat").unwrap();
        assert!(Stat::parse(&bytes).unwrap().start_time > 0);
    }
}
