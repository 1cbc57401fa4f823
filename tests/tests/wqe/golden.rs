//! Every opcode x segment x position against the C program.
//!
//! Receives are compared, too (`receive.rs` builds them).
//!
//! A case is a line for the C program and a call of the builder, made from the same values. All of them are posted to one queue, which
//! goes through the end of its 16-bit indices on the way.

use core::fmt::Write as _;
use std::fs::File;
use std::process::{Command, Stdio};

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::region::LocalSge;
use spinwire_dataplane::wqe::builder::{Complete, Gather, NeedsData, Scatter};
use spinwire_dataplane::wqe::segment::Part;
use spinwire_dataplane::wqe::{
    Access, Av, Grh, IbPath, KeyUpdate, RelaxedOrdering, RoceGrh, Straddle, Transport, UdPeer,
    Window, Wqe, WqeFlags,
};

use super::host_process::Folder;
use super::host_process::private::{not_run, output};
use super::{QPN, SHAPE, Shape, TestQp, bytes_of, open, receive, sge, wipe};

type DeviceQp = TestQp<Device>;
type Post = Box<dyn Fn(&DeviceQp, bool) -> Result<(), PostError>>;

/// A WQE, in words for the C program and as a call.
struct Case {
    opcode: u8,
    opmod: u8,
    flags: WqeFlags,
    imm: u32,
    segments: String,
    post: Post,
}

const ENTRY: u32 = 7;
const BLOCKS: usize = SHAPE.blocks;
/// All places from which a WQE of four blocks passes the end, and some others.
const PLACES: [u16; 7] = [11, 12, 13, 14, 15, 0, 5];

fn end<P: Part, S: Complete>(
    wqe: Wqe<'_, '_, u32, Device, P, S>,
    signaled: bool,
) -> Result<(), PostError> {
    if signaled { wqe.finish_signaled(ENTRY) } else { wqe.finish_unsignaled() }
}

/// Data of a message.
#[derive(Clone)]
enum Data {
    Empty,
    Ranges(Vec<LocalSge>),
    List(Vec<LocalSge>),
    Inline(Vec<u8>),
    /// A range, then bytes, then a range.
    Mixed(LocalSge, Vec<u8>, LocalSge),
}

impl Data {
    fn text(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Ranges(sges) | Self::List(sges) => sges.iter().map(range).collect(),
            Self::Inline(bytes) if bytes.is_empty() => String::new(),
            Self::Inline(bytes) => format!(" I {}", hex(bytes)),
            Self::Mixed(a, bytes, b) => format!("{} I {}{}", range(a), hex(bytes), range(b)),
        }
    }

    fn gather<P: Part>(
        &self,
        wqe: Wqe<'_, '_, u32, Device, P, NeedsData<Gather>>,
        signaled: bool,
    ) -> Result<(), PostError> {
        match self {
            Self::Empty => end(wqe.empty(), signaled),
            Self::Ranges(sges) => match sges.as_slice() {
                [a] => end(wqe.sge(*a), signaled),
                [a, b] => end(wqe.sge(*a).sge(*b), signaled),
                other => panic!("{other:?}"),
            },
            Self::List(sges) => end(wqe.sges(sges), signaled),
            Self::Inline(bytes) => end(wqe.inline(bytes), signaled),
            Self::Mixed(a, bytes, b) => end(wqe.sge(*a).inline(bytes).sge(*b), signaled),
        }
    }

    fn scatter<P: Part>(
        &self,
        wqe: Wqe<'_, '_, u32, Device, P, NeedsData<Scatter>>,
        signaled: bool,
    ) -> Result<(), PostError> {
        match self {
            Self::Empty => end(wqe.empty(), signaled),
            Self::Ranges(sges) if sges.len() == 1 => end(wqe.sge(sges[0]), signaled),
            Self::Ranges(sges) | Self::List(sges) => end(wqe.sges(sges), signaled),
            Self::Inline(_) | Self::Mixed(..) => panic!("a read has no inline data"),
        }
    }
}

fn range(sge: &LocalSge) -> String {
    format!(" D {:x} {:x} {:x}", sge.length(), sge.lkey(), sge.addr())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

const A: (u64, u32) = (0x1122_3344_5566_7788, 0x99aa_bbcc);

fn ranges() -> [LocalSge; 9] {
    core::array::from_fn(|i| {
        let i = u32::try_from(i).unwrap();
        sge(0xffee_ddcc_0000_0000 + u64::from(i), u32::MAX >> (1 + 3 * i), 0x0102_0304 + i)
    })
}

fn scattered() -> Vec<Data> {
    let [a, b, ..] = ranges();
    let lists = [1, 2, 3, 9].map(|n| Data::List(ranges()[..n].to_vec()));
    let mut all = vec![Data::Empty, Data::Ranges(vec![a]), Data::Ranges(vec![a, b])];
    all.extend(lists);
    all
}

fn gathered() -> Vec<Data> {
    let [a, b, ..] = ranges();
    let bytes: Vec<u8> = (1..=255).collect();
    let mut all = scattered();
    let lengths = [0, 1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 19, 20, 27, 28, 29, 32, 43, 44, 45, 60, 61];
    let longer = [64, 76, 77, 92, 93, 108, 109, 124, 125, 140, 156, 157, 172, 188];
    let lengths = lengths.into_iter().chain(longer);
    all.extend(lengths.map(|length| Data::Inline(bytes[..length].to_vec())));
    all.push(Data::Mixed(a, bytes[..50].to_vec(), b));
    all
}

fn case(
    opcode: u8,
    imm: u32,
    segments: String,
    post: impl Fn(&DeviceQp, WqeFlags, bool) -> Result<(), PostError> + Clone + 'static,
) -> Vec<Case> {
    modified((opcode, 0), imm, &segments, &post)
}

/// The case with all flags.
fn modified(
    (opcode, opmod): (u8, u8),
    imm: u32,
    segments: &str,
    post: &(impl Fn(&DeviceQp, WqeFlags, bool) -> Result<(), PostError> + Clone + 'static),
) -> Vec<Case> {
    let all = [
        WqeFlags::NONE,
        WqeFlags::FENCE,
        WqeFlags::SOLICITED,
        WqeFlags::FENCE | WqeFlags::SOLICITED,
    ];
    let with = |flags| {
        let post = post.clone();
        let post: Post = Box::new(move |qp, signaled| post(qp, flags, signaled));
        Case { opcode, opmod, flags, imm, segments: segments.to_owned(), post }
    };
    // All flags on short ones; on others what they are does not touch them.
    let count = if segments.len() < 60 { all.len() } else { 1 };
    all.into_iter().take(count).map(with).collect()
}

fn messages() -> Vec<Case> {
    let mut all = case(0, 0, String::new(), |qp, flags, signaled| {
        qp.with_sq_wqe(|wqe| end(wqe.nop(flags), signaled))
    });
    let remote = format!(" R {:x} {:x}", A.0, A.1);
    for data in gathered() {
        let (plain, far) = (data.text(), format!("{remote}{}", data.text()));
        let d = data.clone();
        all.extend(case(0x0a, 0, plain.clone(), move |qp, flags, signaled| {
            qp.with_sq_wqe(|wqe| d.gather(wqe.send(flags), signaled))
        }));
        let d = data.clone();
        all.extend(case(0x0b, 0x0102_0304, plain.clone(), move |qp, flags, signaled| {
            qp.with_sq_wqe(|wqe| d.gather(wqe.send_imm(flags, 0x0102_0304), signaled))
        }));
        let d = data.clone();
        all.extend(case(0x01, 0x8765_4321, plain, move |qp, flags, signaled| {
            qp.with_sq_wqe(|wqe| d.gather(wqe.send_inval(flags, 0x8765_4321), signaled))
        }));
        let d = data.clone();
        all.extend(case(0x08, 0, far.clone(), move |qp, flags, signaled| {
            qp.with_sq_wqe(|wqe| d.gather(wqe.write(flags, A.0, A.1), signaled))
        }));
        all.extend(case(0x09, 0xa1b2_c3d4, far, move |qp, flags, signaled| {
            qp.with_sq_wqe(|wqe| data.gather(wqe.write_imm(flags, A, 0xa1b2_c3d4), signaled))
        }));
    }
    for data in scattered() {
        let far = format!("{remote}{}", data.text());
        all.extend(case(0x10, 0, far, move |qp, flags, signaled| {
            qp.with_sq_wqe(|wqe| data.scatter(wqe.read(flags, A.0, A.1), signaled))
        }));
    }
    all
}

fn atomics() -> Vec<Case> {
    let (x, y, z, w) = (0x0102_0304_0506_0708, 0x1112_1314_1516_1718, u64::MAX - 1, 0xff00_u64);
    let (a, b, c, d) = (0x0102_0304, 0x1112_1314, u32::MAX - 1, 0xff00_u32);
    let (eight, four) = (sge(0x5000, 8, 0x21), sge(0x6000, 4, 0x22));
    let far = |operands: &str, result: &LocalSge| {
        format!(" R {:x} {:x}{operands}{}", A.0, A.1, range(result))
    };
    let mut all = Vec::new();
    let segments = far(&format!(" A {y:x} {x:x}"), &eight);
    all.extend(modified((0x11, 0), 0, &segments, &move |qp: &DeviceQp, flags, signaled| {
        qp.with_sq_wqe(|wqe| end(wqe.atomic_cs(flags, A, x, y).result(eight)?, signaled))
    }));
    let segments = far(&format!(" A {x:x} 0"), &eight);
    all.extend(modified((0x12, 0), 0, &segments, &move |qp: &DeviceQp, flags, signaled| {
        qp.with_sq_wqe(|wqe| end(wqe.atomic_fa(flags, A, x).result(eight)?, signaled))
    }));
    let segments = far(&format!(" Q {y:x} Q {x:x} Q {w:x} Q {z:x}"), &eight);
    all.extend(modified((0x14, 9), 0, &segments, &move |qp: &DeviceQp, flags, signaled| {
        let build = |wqe: spinwire_dataplane::wqe::SqWqe<'_, 'static, u32, Device>| {
            end(wqe.masked_cs(flags, A, (x, y), (z, w)).result(eight)?, signaled)
        };
        qp.with_sq_wqe(build)
    }));
    let segments = far(&format!(" Q {x:x} Q {w:x}"), &eight);
    all.extend(modified((0x15, 9), 0, &segments, &move |qp: &DeviceQp, flags, signaled| {
        qp.with_sq_wqe(|wqe| end(wqe.masked_fa(flags, A, x, w).result(eight)?, signaled))
    }));
    let segments = far(&format!(" W {b:x} W {a:x} W {d:x} W {c:x}"), &four);
    all.extend(modified((0x14, 8), 0, &segments, &move |qp: &DeviceQp, flags, signaled| {
        qp.with_sq_wqe(|wqe| end(wqe.masked_cs32(flags, A, (a, b), (c, d)).result(four)?, signaled))
    }));
    let segments = far(&format!(" W {a:x} W {d:x} W 0 W 0"), &four);
    all.extend(modified((0x15, 8), 0, &segments, &move |qp: &DeviceQp, flags, signaled| {
        qp.with_sq_wqe(|wqe| end(wqe.masked_fa32(flags, A, a, d).result(four)?, signaled))
    }));
    all
}

/// Rights with their bits in the context.
fn rights() -> [(Access, u8); 6] {
    let none = Access::default();
    [
        (none, 0),
        (Access { local_write: true, ..none }, 1 << 3),
        (Access { remote_read: true, ..none }, 1 << 4),
        (Access { remote_write: true, ..none }, 1 << 5),
        (Access { remote_atomic: true, ..none }, 1 << 6),
        (
            Access {
                local_write: true,
                remote_read: true,
                remote_write: true,
                remote_atomic: true,
            },
            0x78,
        ),
    ]
}

fn keys() -> Vec<Case> {
    // FREE, MKEY, QPN; LEN, START_ADDR and the four rights.
    let (base, bind) = (1 << 29 | 1 << 13 | 1 << 14, 1 | 1 << 6 | 0xf << 18);
    let rkey = 0x0001_2342;
    let text = format!(" K 98 {base:x} 40 0 0 ffffff00 0 0 0 0");
    let mut all = case(0x25, rkey, text, move |qp, flags, signaled| {
        qp.with_sq_wqe(|wqe| end(wqe.local_inval(flags, rkey), signaled))
    });
    for (access, bits) in rights() {
        for zero_based in [false, true] {
            let memory = sge(0xaabb_0000, 0x7fff_fff8, 0x77);
            let start = if zero_based { 0 } else { memory.addr() };
            let qpn_mkey = QPN << 8 | 0x43;
            let window = Window { rkey, new_rkey: 0x0001_2343, access, zero_based };
            let text = format!(
                " K b0 {:x} 0 0 {bits:x} {qpn_mkey:x} {start:x} {:x} 0 1 {:x} 77 {:x}",
                base | bind,
                memory.length(),
                memory.length(),
                memory.addr()
            );
            all.extend(case(0x25, rkey, text, move |qp, flags, signaled| {
                qp.with_sq_wqe(|wqe| end(wqe.bind_window(flags, &window, &memory), signaled))
            }));
        }
        all.extend(updates(access, bits));
    }
    all
}

fn updates(access: Access, bits: u8) -> Vec<Case> {
    let mut all = Vec::new();
    let relaxed = [
        (None, 0, 0),
        (Some(RelaxedOrdering { writes: true, reads: false }), 4, 0),
        (Some(RelaxedOrdering { writes: false, reads: true }), 0, 0x40),
    ];
    for (relaxed_ordering, writes, reads) in relaxed {
        for count in [0, 1, 3, 4] {
            let entries = ranges()[..count].to_vec();
            let length: u64 = entries.iter().map(|entry| u64::from(entry.length())).sum();
            // FREE and MKEY, the rights; LEN where there are entries; the two orders.
            let mut mask = 1_u64 << 29 | 1 << 13 | 0xf << 18 | u64::from(count > 0);
            mask |= if relaxed_ordering.is_some() { 1 << 25 | 1 << 47 } else { 0 };
            let mut text = format!(
                " K 80 {mask:x} 0 {writes:x} {bits:x} ffffff99 0 {length:x} {reads:x} {count:x}"
            );
            for entry in &entries {
                let (length, key) = (entry.length(), entry.lkey());
                write!(text, " {length:x} {key:x} {:x}", entry.addr()).unwrap();
            }
            let update = KeyUpdate { access: Some(access), relaxed_ordering };
            all.extend(case(0x25, 0x7799, text, move |qp, flags, signaled| {
                qp.with_sq_wqe(|wqe| {
                    end(wqe.update_key(flags, 0x7799, &update, &entries), signaled)
                })
            }));
        }
    }
    all
}

const PEER: UdPeer = UdPeer { qpn: 0x00fe_dcba, qkey: 0x1357_9bdf };
const GRH: Grh = Grh {
    dgid: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    sgid_index: 0x5a,
    flow_label: 0xf_edcb,
    traffic_class: 0x6b,
    hop_limit: 0x40,
};
const ROCE: RoceGrh = RoceGrh {
    grh: GRH,
    mac: [2, 4, 6, 8, 10, 12],
    priority: 5,
    static_rate: 3,
    udp_source_port: 0xc123,
};

fn datagrams() -> Vec<Case> {
    let ib = IbPath { dlid: 0x1234, service_level: 9, static_rate: 3, path_bits: 0x15, grh: None };
    let global = IbPath { grh: Some(GRH), ..ib };
    let (key, qpn, gid) = (PEER.qkey, PEER.qpn, hex(&GRH.dgid));
    let none = hex(&[0; 16]);
    let ways = [
        (Av::ib(&ib, PEER), format!(" V {key:x} {qpn:x} 39 15 1234 {} 0 0 0 {none}", hex(&[0; 6]))),
        (
            Av::ib(&global, PEER),
            // Bit 30, the index from bit 20, the label.
            format!(" V {key:x} {qpn:x} 39 15 1234 {} 6b 40 45afedcb {gid}", hex(&[0; 6])),
        ),
        (
            Av::roce(&ROCE, PEER),
            format!(" V {key:x} {qpn:x} 3a 0 c123 {} 6b 40 5afedcb {gid}", hex(&ROCE.mac)),
        ),
    ];
    let mut all = case(0, 0, String::new(), |qp, flags, signaled| {
        qp.with_ud_sq_wqe(|wqe| end(wqe.nop(flags), signaled))
    });
    let fits = |data: &Data| match data {
        Data::Inline(bytes) => bytes.len() <= 188,
        Data::List(sges) => sges.len() < 9,
        Data::Empty | Data::Ranges(_) | Data::Mixed(..) => true,
    };
    for data in gathered().into_iter().filter(fits) {
        for (av, address) in ways.clone() {
            let text = format!("{address}{}", data.text());
            let d = data.clone();
            all.extend(case(0x0a, 0, text.clone(), move |qp, flags, signaled| {
                qp.with_ud_sq_wqe(|wqe| d.gather(wqe.av(&av).send(flags), signaled))
            }));
            let d = data.clone();
            all.extend(case(0x0b, 77, text, move |qp, flags, signaled| {
                qp.with_ud_sq_wqe(|wqe| d.gather(wqe.av(&av).send_imm(flags, 77), signaled))
            }));
        }
        let text = format!("{}{}", ways[2].1, data.text());
        let d = data.clone();
        all.extend(case(0x0a, 0, text.clone(), move |qp, flags, signaled| {
            qp.with_ud_sq_wqe_roce(&ROCE, |wqe| d.gather(wqe.to(PEER).send(flags), signaled))
        }));
        all.extend(case(0x0b, 78, text, move |qp, flags, signaled| {
            qp.with_ud_sq_wqe_roce(&ROCE, |wqe| {
                data.gather(wqe.to(PEER).send_imm(flags, 78), signaled)
            })
        }));
    }
    all
}

const fn index(qp: &DeviceQp) -> u16 {
    qp.sq().tracker().pi()
}

/// One NOP, done.
fn step(qp: &DeviceQp) {
    let at = index(qp);
    let nop = |flag| {
        if qp.transport() == Transport::Ud {
            qp.with_ud_sq_wqe(|wqe| wqe.nop(flag).finish_signaled(ENTRY))
        } else {
            qp.with_sq_wqe(|wqe| wqe.nop(flag).finish_signaled(ENTRY))
        }
    };
    nop(WqeFlags::NONE).unwrap();
    assert_eq!(qp.sq().complete(at).unwrap().entry, ENTRY);
}

/// Posts every case at every place; lines for the C program, and what the ring was then.
fn built(cases: &[Case], shape: Shape, lines: &mut String) -> Vec<String> {
    let (qp, memory) = open(shape, Device);
    let mode = if shape.straddle == Straddle::Fill { 'f' } else { 'w' };
    let mut rings = Vec::new();
    // The end of the 16-bit indices comes in the middle.
    let before = (cases.len() * BLOCKS / 2).min(1 << 15);
    for _ in 0..(1 << 16) - before {
        step(&qp);
    }
    let mut came_round = false;
    for (number, case) in cases.iter().enumerate() {
        for place in PLACES {
            // At least one, which takes the fence of a change of keys.
            step(&qp);
            while index(&qp) % 16 != place {
                step(&qp);
            }
            let start = index(&qp);
            came_round |= start < 1 << 15;
            let signaled = (number + usize::from(place)).is_multiple_of(2);
            wipe(memory.sq);
            (case.post)(&qp, signaled).unwrap();
            rings.push(hex(&bytes_of(memory.sq)));
            // A fence is the fourth bit from above as rdma-core sets it, solicited is 2, a completion 8.
            let is =
                |flag| case.flags == flag || case.flags == WqeFlags::FENCE | WqeFlags::SOLICITED;
            let mut flags = if signaled { 8 } else { 0 };
            flags |= if is(WqeFlags::FENCE) { 0x80 } else { 0 };
            flags |= if is(WqeFlags::SOLICITED) { 2 } else { 0 };
            let Case { opcode, opmod, imm, segments, .. } = case;
            writeln!(
                lines,
                "10 {start:x} {mode} {QPN:x} {opcode:x} {opmod:x} {flags:x} {imm:x}{segments}"
            )
            .unwrap();
            if signaled {
                let wqe = first_of(&qp, start, shape);
                assert_eq!(qp.sq().complete(wqe).unwrap().entry, ENTRY);
            }
        }
    }
    assert!(came_round, "the end of the 16-bit indices was not passed");
    rings
}

/// Where a WQE that was posted at `start` begins: behind the fill, if there was any.
fn first_of(qp: &DeviceQp, start: u16, shape: Shape) -> u16 {
    let passes = start % 16 + index(qp).wrapping_sub(start) > 16;
    if shape.straddle == Straddle::Fill && passes { start.next_multiple_of(16) } else { start }
}

/// The C program, and its answers.
pub(crate) fn ask(lines: &str) -> Result<Vec<String>, String> {
    output("cc", &["--version"]).map_err(|e| format!("{e}; remedy: apt-get install gcc"))?;
    let folder = Folder::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wqe/vectors.c");
    let (program, input) = (folder.path().join("vectors"), folder.path().join("lines"));
    output("cc", &["-std=gnu11", "-O1", "-o", program.to_str().unwrap(), source])
        .map_err(|e| format!("{e}; remedy: apt-get install libibverbs-dev"))?;
    std::fs::write(&input, lines).unwrap();
    let input = File::open(&input).unwrap();
    let ran = Command::new(&program).stdin(input).stderr(Stdio::inherit()).output().unwrap();
    assert!(ran.status.success(), "the C program does not understand a line: {:?}", ran.status);
    Ok(String::from_utf8(ran.stdout).unwrap().lines().map(str::to_owned).collect())
}

/// The first byte that differs, in words.
fn difference(line: &str, ours: &str, theirs: &str) -> String {
    let at = ours.bytes().zip(theirs.bytes()).position(|(a, b)| a != b).unwrap_or(ours.len());
    let block = at / 128 * 128;
    let end = (block + 128).min(ours.len());
    let (a, b) = (&ours[block..end], &theirs[block.min(theirs.len())..end.min(theirs.len())]);
    format!("{line}\nbyte {} of the ring, in block\n{a}\nbut rdma-core has\n{b}", at / 2)
}

#[test]
fn every_wqe_is_as_the_header_of_rdma_core_has_it() {
    let mut connected = messages();
    connected.extend(atomics());
    connected.extend(keys());
    let datagrams = datagrams();
    let (mut lines, mut ours) = (String::new(), Vec::new());
    for straddle in [Straddle::Fill, Straddle::Wrap] {
        ours.extend(built(&connected, Shape { straddle, ..SHAPE }, &mut lines));
        let shape = Shape { straddle, transport: Transport::Ud, wqe_blocks_max: 5, ..SHAPE };
        ours.extend(built(&datagrams, shape, &mut lines));
    }
    ours.extend(receive::built(&mut lines).iter().map(|ring| hex(ring)));
    let theirs = match ask(&lines) {
        Ok(theirs) => theirs,
        Err(why) => return not_run("every_wqe_is_as_the_header_of_rdma_core_has_it", &why),
    };
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > 10_000, "only {} vectors", ours.len());
    for (line, (ours, theirs)) in lines.lines().zip(ours.iter().zip(&theirs)) {
        assert!(ours == theirs, "{}", difference(line, ours, theirs));
    }
}

/// A change of keys makes the WQE behind it wait, once, and fill takes nothing of it.
#[test]
fn what_follows_a_change_of_keys_waits_for_it() {
    let (qp, memory) = open(SHAPE, Device);
    for place in 0..16 {
        while index(&qp) % 16 != place {
            step(&qp);
        }
        let inval = index(&qp);
        qp.with_sq_wqe(|wqe| wqe.local_inval(WqeFlags::NONE, 1).finish_signaled(ENTRY)).unwrap();
        let control = |at: u16| bytes_of(&memory.sq[usize::from(at % 16)..])[..16].to_vec();
        let begins = |at: u16, blocks: u16| {
            if at % 16 + blocks > 16 { at.next_multiple_of(16) } else { at }
        };
        let inval = begins(inval, 2);
        assert_eq!(control(inval)[11], 8);
        qp.sq().complete(inval).unwrap();
        let next = begins(index(&qp), 2);
        let bytes = [0; 60];
        let send = |wqe: spinwire_dataplane::wqe::SqWqe<'_, 'static, u32, Device>, flags| {
            wqe.send(flags).inline(&bytes).finish_signaled(ENTRY)
        };
        qp.with_sq_wqe(|wqe| send(wqe, WqeFlags::NONE)).unwrap();
        assert_eq!(control(next)[11], 0x28, "the small fence, and a completion");
        qp.sq().complete(next).unwrap();
        let after = begins(index(&qp), 2);
        qp.with_sq_wqe(|wqe| send(wqe, WqeFlags::NONE)).unwrap();
        assert_eq!(control(after)[11], 8, "only once");
        qp.sq().complete(after).unwrap();
        qp.with_sq_wqe(|wqe| wqe.local_inval(WqeFlags::FENCE, 1).finish_unsignaled()).unwrap();
        let fenced = begins(index(&qp), 2);
        qp.with_sq_wqe(|wqe| send(wqe, WqeFlags::FENCE)).unwrap();
        assert_eq!(control(fenced)[11], 0x88, "the full fence stands for the small one");
        qp.sq().complete(fenced).unwrap();
    }
}

/// The longest WQEs that a control segment can describe.
#[test]
fn the_length_of_a_wqe_ends_at_sixty_three_units() {
    let shape = Shape { blocks: 32, wqe_blocks_max: 16, ..SHAPE };
    let (qp, memory) = open(shape, Device);
    let bytes: Vec<u8> = (0..=255).cycle().take(1024).collect();
    // 16 of control, 4 of length: 988 bytes fill 1008, which are 63 units.
    let send = |length: usize| {
        qp.with_sq_wqe(|wqe| wqe.send(WqeFlags::NONE).inline(&bytes[..length]).finish_signaled(1))
    };
    for length in [989, 1000, 1024] {
        let refused = send(length).unwrap_err();
        assert_eq!(refused, spinwire_dataplane::error::Misuse::WqeTooLong.into());
    }
    assert!(bytes_of(memory.sq).iter().all(|byte| *byte == 0xEE), "refused, and written");
    send(988).unwrap();
    let ring = bytes_of(memory.sq);
    assert_eq!(ring[7], 63);
    assert_eq!(ring[16..20], (988_u32 | 1 << 31).to_be_bytes());
    assert_eq!(ring[20..1008], bytes[..988]);
    assert!(ring[1008..].iter().all(|byte| *byte == 0xEE));
}
