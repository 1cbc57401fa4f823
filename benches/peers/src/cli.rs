//! The command line.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::clock::Clock;
use crate::cpu::Cpus;
use crate::peer::{self, iceoryx2, pool, spinwire};
use crate::schedule::{self, Effort, Plan, Selection};
use crate::server;
use crate::work::Work;

const AFTER_HELP: &str = "\
What it does:
  Every round measures, work by work, Spinwire, UCX, rtrb, iceoryx2 and libfabric (over TCP
  Spinwire, ringline, monoio, tokio and redis-server) right after each other on the same two
  processors, with the bare floor before, between and after them. Ratios are made within a round,
  only where the floors around both figures agree within 25 %, and the table
  shows the median of those ratios. The absolute figures beside them only say which machine this
  was; on a virtual machine they change by the minute.

Words for --only (`floor` stands for what explains the floor, which itself always runs):
  peers  floor spinwire ucx rtrb iceoryx2 libfabric pool ringline monoio tokio redis
  works  rtt32 rtt64 rtt4096 rtt65536 stream32 stream64 stream4096 stream65536   (all: messages)
         lend1048576 acquire4096 get4096 two4096                                 (all: buffers)
         echo64 echo64x16 echo64x128 echo64x1024 echo16384 echo16384x16 echo1048576
         echo1048576x16                                                          (all: echo)
         respget1 respset1 respget16 respset16                                   (all: resp)

Examples:
  peers --quick                          a look, in a minute or two
  peers                                  the whole table, in several minutes
  peers --rounds 30 --check              a claim: exit status 1 unless every bar is met
  peers --only spinwire,ucx,rtt64        one question
  peers --only iceoryx2,pool,get4096     another one
  peers --only echo,resp                 servers over TCP
  peers --json > peers.json              every single reading

Exit status: 0 the table was made; 1 with --check, a bar is missed or could not be judged; 2 it
could not run. A peer that is not installed is skipped, loudly; benches/peers/install installs
those that Debian has.";

/// Spinwire and its peers, in shared memory and over TCP, side by side on the same two processors.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 120)]
#[command(subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Rounds to run [default: 12; 4 with --quick, 3 with --smoke]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,

    /// Short measurements and few rounds: a look, not a claim
    #[arg(long)]
    quick: bool,

    /// As short as can be: shows that everything runs, the figures mean nothing
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,

    /// The two processors: who pings or sends, and who echoes or receives
    #[arg(long, value_name = "A,B", default_value = "0,1")]
    cpus: Cpus,

    /// Only these peers and works; words below
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<String>,

    /// The spinwire command [default: the repository's target/release/spinwire]
    #[arg(long, value_name = "PATH")]
    spinwire: Option<PathBuf>,

    /// Spinwire's server of the Redis protocol, with {port} and {cpu} where they belong
    #[arg(long, value_name = "COMMAND")]
    resp_server: Option<String>,

    /// Requests that each of many connections has under way at the echo works; the bars are for 1
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "check")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    depth: u32,

    /// Print everything as JSON, each single reading included
    #[arg(long)]
    pub(crate) json: bool,

    /// Exit with status 1 unless every bar is met
    #[arg(long)]
    pub(crate) check: bool,

    #[command(subcommand)]
    pub(crate) inner: Option<Inner>,
}

/// What this program starts itself as.
#[derive(Debug, Subcommand)]
pub(crate) enum Inner {
    /// The far process of the iceoryx2 rows
    #[command(name = "iceoryx2-far-side", hide = true)]
    Iceoryx2(iceoryx2::FarSide),
    /// The servers of the socket rows
    #[command(name = "socket-server", hide = true)]
    Socket(server::FarSide),
    /// The processes of the pool's rows
    #[command(name = "pool-far-side", hide = true)]
    Pool(pool::FarSide),
}

impl Cli {
    /// How to run.
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        self.cpus.check()?;
        let (effort, rounds) = match (self.smoke, self.quick) {
            (true, _) => (Effort::Smoke, 3),
            (false, true) => (Effort::Quick, 4),
            (false, false) => (Effort::Full, 12),
        };
        let spinwire = self.spinwire.clone().unwrap_or_else(spinwire::default_path);
        Ok(Plan {
            rounds: self.rounds.unwrap_or(rounds),
            effort,
            cpus: self.cpus,
            clock: Clock::calibrate(),
            // A path that the reader can follow, where there is one.
            spinwire: spinwire.canonicalize().unwrap_or(spinwire),
            resp_server: self.resp_server.clone(),
            depth: self.depth,
        })
    }

    /// Who runs, and at which works.
    pub(crate) fn selection(&self) -> anyhow::Result<Selection> {
        let known = schedule::words();
        if let Some(unknown) = self.only.iter().find(|word| !known.contains(word)) {
            bail!("--only does not know `{unknown}`; it knows {}", known.join(" "));
        }
        let wanted = |word: &str| self.only.iter().any(|only| only == word);
        let mut peers = peer::all();
        if peers.iter().any(|peer| wanted(peer.word())) {
            peers.retain(|peer| wanted(peer.word()));
        }
        let mut works = Work::ALL.to_vec();
        let named = |work: &Work| wanted(&work.word()) || wanted(work.group());
        if works.iter().any(named) {
            works.retain(named);
        }
        works.retain(|&work| peers.iter().any(|peer| peer.measures(work)));
        works.first().context("none of these peers is measured at any of these works")?;
        Ok(Selection { peers, works })
    }
}
