//! The choice of CPUs for pinned pollers.
//!
//! ```text
//!   memory node  >  shared last cache  >  core  >  CPU (hardware thread)
//! ```
//!
//! Two pollers that talk to each other want two cores (each alone on its own) under one last-level cache; they can live
//! with two caches, less well with two memory nodes, badly with one core, and with one CPU only if the idle ladder yields.
//! The kernel describes all of it under `/sys/devices/system/cpu`.

use core::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{AffinityError, CpuList};

/// What the chosen CPUs have to share with one another. Ordered from harmless to harmful.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Sharing {
    /// A core each, one last-level cache for all.
    Cache,
    /// A core each, one memory node, several caches: a line takes longer from one to the other.
    Node,
    /// A core each, on several memory nodes.
    Machine,
    /// Some are hardware threads of one core, and take turns at its units.
    Core,
    /// Some are the same CPU: only one of them runs at a time.
    Cpu,
}

/// CPUs that were chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spread {
    /// One per poller: ascending where each has a core, else best first. Repeats where there are too few.
    pub cpus: Vec<u32>,
    /// What they share.
    pub sharing: Sharing,
}

/// Where one CPU sits. The first CPU of a group stands for the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    cpu: u32,
    core: u32,
    cache: u32,
    node: u32,
    isolated: bool,
    /// On the core of CPU 0, where most interrupts arrive.
    noisy: bool,
}

/// The machine as far as the allowed CPUs go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    places: Vec<Place>,
}

impl Topology {
    /// Reads sysfs below `root` (`/`, or a made-up tree in a test) for the CPUs in `allowed`. What sysfs does not tell is
    /// taken as the simplest machine: every CPU a core, one cache, one node.
    #[must_use]
    pub fn read(root: &Path, allowed: &CpuList) -> Self {
        let cpus = root.join("sys/devices/system/cpu");
        let isolated = read_list(&cpus.join("isolated")).unwrap_or_default();
        let core_of = |cpu: u32| {
            let here = cpus.join(format!("cpu{cpu}/topology"));
            let core = first(&here.join("core_cpus_list"))
                .or_else(|| first(&here.join("thread_siblings_list")));
            core.unwrap_or(cpu)
        };
        let noisy_core = core_of(0);
        let place = |cpu: u32| {
            let here = cpus.join(format!("cpu{cpu}"));
            let core = core_of(cpu);
            Place {
                cpu,
                core,
                noisy: core == noisy_core,
                cache: last_cache(&here.join("cache")).unwrap_or(0),
                node: node_of(&here).unwrap_or(0),
                isolated: isolated.contains(cpu),
            }
        };
        Self { places: allowed.iter().map(place).collect() }
    }

    /// The CPUs that are hardware threads of the core of `cpu`, itself included, among the allowed ones.
    #[must_use]
    pub fn siblings(&self, cpu: u32) -> CpuList {
        let core = self.places.iter().find(|p| p.cpu == cpu).map(|p| p.core);
        self.places.iter().filter(|p| Some(p.core) == core).map(|p| p.cpu).collect()
    }

    /// The memory node of `cpu`, if it is allowed.
    #[must_use]
    pub fn node(&self, cpu: u32) -> Option<u32> {
        self.places.iter().find(|p| p.cpu == cpu).map(|p| p.node)
    }

    /// Picks `count` CPUs for pollers that talk to one another: cores of their own under one cache, else on one node, else
    /// anywhere, else hardware threads of one core, else the same CPU more than once. Isolated CPUs come first and the
    /// core of CPU 0, where most interrupts arrive, comes last.
    ///
    /// # Errors
    /// [`AffinityError::None`] for a count of zero, or where no CPU is allowed.
    pub fn spread(&self, count: usize) -> Result<Spread, AffinityError> {
        if count == 0 || self.places.is_empty() {
            return Err(AffinityError::None);
        }
        let cores = self.one_per_core();
        let by_cache: fn(&Place) -> (u32, u32) = |p| (p.node, p.cache);
        for (sharing, group) in [
            (Sharing::Cache, by_cache),
            (Sharing::Node, |p| (p.node, 0)),
            (Sharing::Machine, |_p| (0, 0)),
        ] {
            if let Some(cpus) = best_group(&cores, count, group) {
                return Ok(Spread { cpus, sharing });
            }
        }
        let all: Vec<u32> = self.threads_round_robin();
        let sharing = if count <= all.len() { Sharing::Core } else { Sharing::Cpu };
        Ok(Spread { cpus: all.into_iter().cycle().take(count).collect(), sharing })
    }

    /// The places in order of preference.
    fn preferred(&self) -> Vec<Place> {
        let mut places = self.places.clone();
        places.sort_by_key(|p| (Reverse(p.isolated), p.noisy, p.cpu));
        places
    }

    /// The first CPU of every core, in order of preference.
    fn one_per_core(&self) -> Vec<Place> {
        let mut cores: Vec<Place> = Vec::new();
        for place in self.preferred() {
            if cores.iter().all(|c| c.core != place.core) {
                cores.push(place);
            }
        }
        cores
    }

    /// Every CPU, first threads of all cores before second threads of any.
    fn threads_round_robin(&self) -> Vec<u32> {
        let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
        let mut ranked: Vec<(usize, u32)> = Vec::new();
        for place in self.preferred() {
            let rank = seen.entry(place.core).or_default();
            ranked.push((*rank, place.cpu));
            *rank += 1;
        }
        ranked.sort_by_key(|(rank, _cpu)| *rank);
        ranked.into_iter().map(|(_rank, cpu)| cpu).collect()
    }
}

/// The first `count` cores of the best group that has as many: the one with the most isolated and the fewest noisy cores
/// among those, the first by preference where groups are equal.
fn best_group(cores: &[Place], count: usize, group: fn(&Place) -> (u32, u32)) -> Option<Vec<u32>> {
    let chosen_by = |leader: &Place| -> Vec<Place> {
        cores.iter().filter(|c| group(c) == group(leader)).take(count).copied().collect()
    };
    let groups = cores.iter().map(chosen_by).filter(|chosen| chosen.len() == count);
    let best = groups.min_by_key(|chosen| {
        let isolated = chosen.iter().filter(|p| p.isolated).count();
        (Reverse(isolated), chosen.iter().filter(|p| p.noisy).count())
    })?;
    let mut cpus: Vec<u32> = best.iter().map(|p| p.cpu).collect();
    cpus.sort_unstable();
    Some(cpus)
}

fn read_list(path: &Path) -> Option<CpuList> {
    fs::read_to_string(path).ok()?.parse().ok()
}

fn first(path: &Path) -> Option<u32> {
    read_list(path)?.iter().next()
}

/// The first CPU that shares the largest cache of this one.
fn last_cache(folder: &Path) -> Option<u32> {
    let level =
        |index: &Path| fs::read_to_string(index.join("level")).ok()?.trim().parse::<u32>().ok();
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|e| e.path());
    let (_level, index) = entries.filter_map(|path| Some((level(&path)?, path))).max()?;
    first(&index.join("shared_cpu_list"))
}

/// sysfs marks the node by an entry `nodeN` in the CPU's folder.
fn node_of(folder: &Path) -> Option<u32> {
    let names = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|e| e.file_name());
    names.filter_map(|n| n.to_str()?.strip_prefix("node")?.parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_tree::Tree;

    /// Two nodes, each with two caches of two cores of two threads: CPU n and n + 8 are siblings.
    fn server(isolated: &str) -> Tree {
        let tree = Tree::new();
        tree.file("sys/devices/system/cpu/isolated", isolated);
        for cpu in 0_u32..16 {
            let core = cpu % 8;
            let here = format!("sys/devices/system/cpu/cpu{cpu}");
            tree.file(&format!("{here}/topology/core_cpus_list"), format!("{core},{}\n", core + 8));
            let low = core / 2 * 2;
            let shared = format!("{low}-{},{}-{}\n", low + 1, low + 8, low + 9);
            tree.file(&format!("{here}/cache/index0/level"), "1\n");
            tree.file(
                &format!("{here}/cache/index0/shared_cpu_list"),
                format!("{core},{}\n", core + 8),
            );
            tree.file(&format!("{here}/cache/index3/level"), "3\n");
            tree.file(&format!("{here}/cache/index3/shared_cpu_list"), &shared);
            tree.file(&format!("{here}/node{}/here", core / 4), "");
        }
        tree
    }

    fn spread_of(tree: &Tree, allowed: &str, count: usize) -> Spread {
        Topology::read(tree.root(), &allowed.parse().unwrap()).spread(count).unwrap()
    }

    #[test]
    fn two_cores_under_one_cache_and_not_the_core_of_cpu_0() {
        let s = spread_of(&server(""), "0-15", 2);
        assert_eq!(s, Spread { cpus: vec![2, 3], sharing: Sharing::Cache });
    }

    #[test]
    fn isolated_cpus_come_first() {
        let s = spread_of(&server("6-7,14-15"), "0-15", 2);
        assert_eq!(s, Spread { cpus: vec![6, 7], sharing: Sharing::Cache });
    }

    #[test]
    fn more_pollers_than_a_cache_has_cores_stay_on_a_node() {
        let s = spread_of(&server(""), "0-15", 4);
        assert_eq!(s, Spread { cpus: vec![4, 5, 6, 7], sharing: Sharing::Node });
        assert_eq!(spread_of(&server(""), "0-15", 5).sharing, Sharing::Machine);
    }

    #[test]
    fn siblings_are_taken_only_when_cores_run_out() {
        let s = spread_of(&server(""), "1,9", 2);
        assert_eq!(s, Spread { cpus: vec![1, 9], sharing: Sharing::Core });
        let s = spread_of(&server(""), "1,3,9,11", 3);
        assert_eq!(s, Spread { cpus: vec![1, 3, 9], sharing: Sharing::Core });
    }

    #[test]
    fn one_cpu_is_shared_by_all_and_says_so() {
        let s = spread_of(&server(""), "5", 2);
        assert_eq!(s, Spread { cpus: vec![5, 5], sharing: Sharing::Cpu });
    }

    #[test]
    fn chosen_cpus_are_always_allowed_and_distinct_while_they_last() {
        let tree = server("3");
        for bits in 1_u32..1 << 16 {
            if bits.count_ones() > 3 {
                continue;
            }
            let allowed = CpuList::from_iter((0..16).filter(|b| bits >> b & 1 == 1));
            let topology = Topology::read(tree.root(), &allowed);
            let s = topology.spread(2).unwrap();
            assert!(s.cpus.iter().all(|c| allowed.contains(*c)), "{allowed}: {s:?}");
            assert_eq!(s.cpus[0] == s.cpus[1], allowed.len() == 1, "{allowed}: {s:?}");
            let same_core = s.cpus[0] % 8 == s.cpus[1] % 8;
            assert_eq!(same_core, s.sharing >= Sharing::Core, "{allowed}: {s:?}");
        }
    }

    #[test]
    fn an_empty_sysfs_is_a_plain_machine() {
        let tree = Tree::new();
        let s = spread_of(&tree, "0-1", 2);
        assert_eq!(s, Spread { cpus: vec![0, 1], sharing: Sharing::Cache });
        let topology = Topology::read(tree.root(), &"0-1".parse().unwrap());
        assert_eq!(topology.spread(0), Err(AffinityError::None));
        assert_eq!(topology.siblings(1).to_string(), "1");
    }

    #[test]
    fn nonsense_in_sysfs_is_no_panic() {
        let allowed = CpuList::from_iter([0, 1, 1023, 1024, 65_535]);
        for text in ["", "\0", "-1", "4294967295", "18446744073709551616", "0-4294967295", "1,1,1"]
        {
            let tree = Tree::new();
            for cpu in allowed.iter() {
                let folder = format!("sys/devices/system/cpu/cpu{cpu}");
                tree.file(&format!("{folder}/topology/thread_siblings_list"), text);
                tree.file(&format!("{folder}/topology/core_cpus_list"), text);
                for index in ["index0", "index3", "indexed"] {
                    tree.file(&format!("{folder}/cache/{index}/level"), text);
                    tree.file(&format!("{folder}/cache/{index}/shared_cpu_list"), text);
                }
                tree.file(&format!("{folder}/node{text}").replace('\0', "x"), "");
            }
            tree.file("sys/devices/system/cpu/isolated", text);
            for count in [1, 2, 5, 9] {
                let spread = Topology::read(tree.root(), &allowed).spread(count).unwrap();
                assert_eq!(spread.cpus.len(), count, "{text:?}");
                assert!(spread.cpus.iter().all(|cpu| allowed.contains(*cpu)), "{text:?}");
            }
        }
    }

    #[test]
    fn siblings_and_nodes_are_told() {
        let tree = server("");
        let topology = Topology::read(tree.root(), &"0-15".parse().unwrap());
        assert_eq!(topology.siblings(3).to_string(), "3,11");
        assert_eq!(
            (topology.node(3), topology.node(4), topology.node(99)),
            (Some(0), Some(1), None)
        );
    }
}
