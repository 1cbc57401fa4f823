//! What a run of a service on the fake network is made of, and what came of it.

use spinwire_dataplane::stream::{StreamConfig, StreamCounters, StreamFeatures};
use spinwire_dataplane::time::Nanos;
use spinwire_layouts::uring::setup;

use super::Manner;
use crate::fake_kernel::FakeConfig;
use crate::rng::Rng;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything that is not said here.
    pub seed: u64,
    /// The service.
    pub config: StreamConfig,
    /// The rings.
    pub kernel: FakeConfig,
    /// The network.
    pub manner: Manner,
    /// Peers that come or are called.
    pub peers: usize,
    /// Turns of chaos.
    pub turns: usize,
    /// Of 100 sends of loans, so many have a time limit of their own.
    pub limits: u64,
    /// The oracle takes this byte of every connection for another: it has to find that out.
    pub canary: Option<usize>,
}

impl Plan {
    /// Everything by chance.
    #[must_use]
    pub fn any(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let small = rng.chance(30);
        let mut size = |most: usize| if small { rng.between(1, 3) } else { rng.between(1, most) };
        let number = |size: usize| u32::try_from(size).unwrap();
        let (conns, segments) = (number(size(8) + 1), number(size(24)));
        let recv_buffers = (number(size(32)), 64 * size(3));
        let send_buffers = (number(size(16)), 64 * size(3));
        let timeout = |rng: &mut Rng| {
            if rng.chance(20) { Nanos::from_millis(rng.below(100) + 5) } else { Nanos::MAX }
        };
        let percent = |rng: &mut Rng, most: u64| if rng.chance(50) { 0 } else { rng.below(most) };
        let queue_low = number(rng.between(0, 300));
        let config = StreamConfig {
            conns,
            recv_buffers,
            send_buffers,
            segments,
            queue_high: queue_low + number(rng.between(1, 500)),
            queue_low,
            queue_max: number(rng.between(200, 2_000)),
            zero_copy_min: number(rng.between(0, 150)),
            features: StreamFeatures {
                accept_multishot: rng.chance(50),
                recv_multishot: rng.chance(60),
                bundles: rng.chance(50),
                send_zero_copy: rng.chance(60),
                sendmsg_zero_copy: rng.chance(50),
                fixed_buffers: false,
                direct_files: rng.chance(50),
            },
            // 0: as many as the kernel likes, and those that are too many are turned away.
            backlog: number(rng.between(0, 2)) * (conns / 2),
            connect_timeout: timeout(&mut rng),
            idle_timeout: timeout(&mut rng),
            send_timeout: timeout(&mut rng),
            ask_max: number(rng.between(0, 3)),
            ..StreamConfig::DEFAULT
        };
        let deferred = setup::DEFER_TASKRUN | setup::TASKRUN_FLAG;
        let kernel = FakeConfig {
            sq_entries: 1 << rng.below(6),
            cq_entries: 1 << rng.below(7),
            flags: setup::NO_SQARRAY | if rng.chance(50) { deferred } else { 0 },
            start: u32::try_from(rng.below(1 << 32)).unwrap(),
        };
        let manner = Manner {
            places: rng.between(1, 16),
            no_descriptor: percent(&mut rng, 40),
            ends: percent(&mut rng, 40),
            misses: percent(&mut rng, 60),
            shortens: percent(&mut rng, 40),
            no_buffer: percent(&mut rng, 30),
            refuses: percent(&mut rng, 20),
            refusal: [95, 12, 105][rng.index(3)],
            notifies: rng.below(100),
            copies: rng.below(50),
            reverses: rng.below(100),
        };
        let (linger_timeout, linger_bytes) = match rng.below(4) {
            0 => (Nanos::ZERO, u32::MAX),
            1 => (Nanos::from_millis(rng.below(50) + 1), number(rng.between(0, 1_000))),
            _ => (Nanos::MAX, u32::MAX),
        };
        let fair_sends = rng.chance(50);
        let (peers, limits) = (rng.between(1, 20), percent(&mut rng, 60));
        let hoard_timeout = timeout(&mut rng);
        let config =
            StreamConfig { linger_timeout, linger_bytes, fair_sends, hoard_timeout, ..config };
        Self { seed, config, kernel, manner, peers, turns: 300, limits, canary: None }
    }

    /// Runs it, and panics where anything is not as it should be.
    #[must_use]
    pub fn run(&self) -> Totals {
        super::world::run(self)
    }

    /// Whether a connection that is closed waits for its other end, however long.
    pub(super) const fn hears_all_out(&self) -> bool {
        let config = &self.config;
        config.linger_timeout.as_nanos() == u64::MAX && config.linger_bytes == u32::MAX
    }

    pub(super) fn has_timeouts(&self) -> bool {
        let (a, b) = (self.config.connect_timeout, self.config.idle_timeout);
        let (c, d) = (self.config.send_timeout, self.config.hoard_timeout);
        let is_set = |limit: Nanos| limit.as_nanos() != u64::MAX;
        is_set(a) || is_set(b) || is_set(c) || is_set(d)
    }
}

/// What happened in a run, so that tests see that it was not nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Of the service.
    pub counters: StreamCounters,
    /// Ends by [`CloseReason::Closed`](spinwire_dataplane::stream::CloseReason::Closed), after which every byte has arrived.
    pub closed: u64,
    /// Those of them after which the other end was not reset though it had more to say than was heard.
    pub heard_out: u64,
    /// Other ends.
    pub failed: u64,
    /// Loans that came back as sent, and as not sent.
    pub sent: (u64, u64),
    /// Loans that came back because their time was up or the application wanted them, and nothing of them had gone.
    pub taken_back: u64,
    /// Times that nothing came when something was to.
    pub late: u64,
    /// Times that the application was told to write again.
    pub writable: u64,
    /// Entries of chains that were cut.
    pub cut: u64,
    /// Overflows of the completion queue.
    pub overflows: u64,
    /// Accepts that failed.
    pub not_accepted: u64,
}
