//! Two virtual queue pairs over the simulated devices of two hosts.

use spinwire_dataplane::poll::{Budget, Poll};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::time::{Instant, Nanos};
use spinwire_dataplane::verbs::Limits;
use spinwire_dataplane::vqp::{
    Completion, Health, RegionId, Regions, Remote, Setup, Sge, VirtualCq, VirtualQp, VqpConfig,
};
use spinwire_tests::sim::fabric::{Fabric, Links, SimCq, SimQp};

use crate::manual::block;

/// What two ends are built of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Devices of the data paths, and of the one for notifications.
    pub(crate) devices: Vec<u32>,
    pub(crate) notify: Option<u32>,
    pub(crate) config: VqpConfig,
    pub(crate) links: Links,
    /// Bytes of memory of each host.
    pub(crate) memory: usize,
    pub(crate) seed: u64,
    /// Pretends that all devices are one, so that no flushing read is made.
    pub(crate) hides_devices: bool,
    pub(crate) cq_depth: u32,
}

/// Times that fit a network of microseconds.
pub(crate) const fn quick(config: VqpConfig) -> VqpConfig {
    VqpConfig {
        suspect_after: Nanos::from_micros(2000),
        silent_after: Nanos::from_micros(20_000),
        flush_after: Nanos::from_micros(300),
        ..config
    }
}

pub(crate) struct End<'f> {
    pub(crate) vqp: &'f VirtualQp<'f, SimQp<'f>>,
    pub(crate) vcq: &'f VirtualCq<'f, SimQp<'f>, SimCq<'f>>,
    pub(crate) qps: Vec<SimQp<'f>>,
    own: RegionId,
    peer: RegionId,
}

impl End<'_> {
    pub(crate) const fn sge(&self, offset: u64, length: u64) -> Sge {
        Sge { region: self.own, offset, length }
    }

    pub(crate) const fn remote(&self, offset: u64) -> Remote {
        Remote { region: self.peer, offset }
    }
}

pub(crate) struct Pair<'f> {
    pub(crate) fabric: &'f Fabric,
    pub(crate) ends: [End<'f>; 2],
}

impl Plan {
    /// Builds the two ends, and runs `test` with them. `place` says with which configuration, now that the region for
    /// flushing reads is known.
    pub(crate) fn with(
        &self,
        configure: impl Fn(VqpConfig, RegionId) -> VqpConfig,
        test: impl FnOnce(&Pair<'_>),
    ) {
        let all: Vec<u32> = self.devices.iter().copied().chain(self.notify).collect();
        let count = all.iter().max().unwrap() + 1;
        let wide = usize::try_from(count).unwrap();
        let fabric = Fabric::new(wide, self.memory, self.links, self.seed);
        if self.hides_devices {
            fabric.accept_any_key();
        }
        let (send_depth, recv_depth) = (self.config.send_depth, self.config.recv_depth);
        let limits = Limits {
            send_depth,
            recv_depth,
            sge_max: 4,
            message_bytes_max: 1 << 31,
            inline_bytes_max: 0,
        };
        let connected: Vec<_> = all
            .iter()
            .map(|device| fabric.connect(usize::try_from(*device).unwrap(), limits))
            .collect();
        let (mut first, mut second) = (block(24 << 20), block(24 << 20));
        let bumps = [Bump::new(&mut first), Bump::new(&mut second)];
        let ends = [0, 1].map(|host: usize| {
            let bump = &bumps[host];
            let table = |of: usize| {
                let regions = Regions::place(bump, 4, count).unwrap();
                let keys = (0..wide).map(|device| Some(Fabric::key(of, device)));
                let keys: Vec<_> = keys.collect();
                let whole = u64::try_from(self.memory).unwrap();
                let all = regions.register(0, whole, &keys).unwrap();
                let scratch = regions.register(8, 8, &keys).unwrap();
                (&*bump.value(regions).unwrap(), all, scratch)
            };
            let ((local, own, scratch), (remote, peer, _)) = (table(host), table(host ^ 1));
            let qps: Vec<SimQp<'_>> =
                connected.iter().map(|pair| if host == 0 { pair.0 } else { pair.1 }).collect();
            let shown = |device: u32| if self.hides_devices { 0 } else { device };
            let paths: Vec<_> = qps.iter().copied().zip(all.iter().map(|d| shown(*d))).collect();
            let (data, rest) = paths.split_at(self.devices.len());
            let setup = Setup { paths: data, notify: rest.first().copied(), local, remote };
            let config = configure(self.config, scratch);
            let vqp = VirtualQp::place(bump, &setup, &config).unwrap();
            let cqs: Vec<_> = (0..wide)
                .zip(0_u32..)
                .map(|(at, device)| (fabric.cq(host, at, self.cq_depth), shown(device)))
                .collect();
            let vcq = VirtualCq::place(bump, &cqs, 4).unwrap();
            vcq.attach(vqp).unwrap();
            End { vqp, vcq, qps, own, peer }
        });
        test(&Pair { fabric: &fabric, ends });
    }
}

impl Pair<'_> {
    pub(crate) fn now(&self) -> Instant {
        Instant::from_nanos(self.fabric.now())
    }

    /// A turn of both ends; what is over at each.
    pub(crate) fn turn(&self) -> [Vec<Completion>; 2] {
        let now = self.now();
        [0, 1].map(|host: usize| {
            let end = &self.ends[host];
            let _outcome = end.vcq.turn(now, Budget::DEFAULT);
            core::iter::from_fn(|| end.vcq.take()).collect()
        })
    }

    /// Paths that are down at one end are taken out at the other; those that are down at both are set up anew.
    pub(crate) fn heal(&self) -> u32 {
        let mut healed = 0;
        for at in 0..self.ends[0].vqp.path_count() {
            let health = |end: &End<'_>| end.vqp.path(at).unwrap().health;
            let is_out = |health| matches!(health, Health::Draining | Health::Down);
            let [here, there] = [health(&self.ends[0]), health(&self.ends[1])];
            if is_out(here) && !is_out(there) {
                self.ends[1].vqp.exclude(at).unwrap();
            } else if is_out(there) && !is_out(here) {
                // The device of this end does not know yet: it is told, as who tears a connection down does.
                self.ends[0].vqp.exclude(at).unwrap();
            } else if here == Health::Down && there == Health::Down {
                self.fabric.reset(&self.ends[0].qps[usize::try_from(at).unwrap()]);
                for end in &self.ends {
                    let _broken = end.vqp.readmit(at);
                }
                healed += 1;
            }
        }
        healed
    }
}
