//! What can go wrong.

/// How a connection dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// Nothing more arrives; everything is flushed.
    Flushes,
    /// Nothing more arrives; the device completes the first, and never speaks of the others.
    NeverFlushes,
    /// The device says nothing at all.
    Silent,
    /// The oldest is executed at the other end, and fails at this one.
    AnswerLost,
}

/// In so many of 10,000 cases.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A connection dies when a message departs on it.
    pub deaths: u64,
    /// A completion comes twice, the second time later.
    pub repeats: u64,
    /// A doorbell publishes a part only, and the connection is done.
    pub partial_doorbells: u64,
    /// A doorbell publishes a part only, and all is well.
    pub short_doorbells: u64,
    /// A post is refused for the moment.
    pub refusals: u64,
    /// A receive is refused for the moment.
    pub receive_refusals: u64,
    /// The number of a queue pair that was destroyed is given to the next one, whose completions may then come behind those of the other: in
    /// all cases.
    pub reuses: bool,
    /// Planted: a byte changes on the way. No device does that.
    pub corruptions: u64,
    /// Planted: a message is acknowledged, and was not executed. No device does that.
    pub losses: u64,
}
