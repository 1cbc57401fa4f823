//! A send request as a device reads it: bytes, by the offsets of the manual, and everything in them checked.
//!
//! ```text
//!    0  ctrl       opmod 8 | index 16 | opcode 8 || queue 24 | ds 8 || signature 8 | stream 16 | fm 3 . ce 2 se 1 . || imm 32
//!   16  then, by opcode and transport:
//!         av 48    key 32 | 0 | ext 1 . dqp 24 | rate, sl | mlid | rlid 16 | 0 | mac 48 | class | hops | grh 1 gid 8 flow 20 | gid
//!         raddr 16 address 64 | key 32 | 0
//!         atomic   swap or add 64 | compare 64          masked: by operand size, see `atomic`
//!         umr      control 48 | context of a key 64 | entries 64
//!       then, until ds units are over:
//!         data 16  bytes 32 (top bit clear) | key 32 | address 64
//!         inline   bytes 32 (top bit set), then so many bytes, filled up to 16
//! ```

use super::bytes::{be16, be32, be64, is_poison, size};
use super::fault::Fault;
use super::memory::{Access, Change};

/// Opcodes of requests (mlx5dv.h, `MLX5_OPCODE_*`).
pub mod opcode {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const NOP: u8 = 0x00;
    pub const SEND_INVAL: u8 = 0x01;
    pub const RDMA_WRITE: u8 = 0x08;
    pub const RDMA_WRITE_IMM: u8 = 0x09;
    pub const SEND: u8 = 0x0A;
    pub const SEND_IMM: u8 = 0x0B;
    pub const RDMA_READ: u8 = 0x10;
    pub const ATOMIC_CS: u8 = 0x11;
    pub const ATOMIC_FA: u8 = 0x12;
    pub const ATOMIC_MASKED_CS: u8 = 0x14;
    pub const ATOMIC_MASKED_FA: u8 = 0x15;
    pub const LOCAL_INVAL: u8 = 0x1B;
    pub const UMR: u8 = 0x25;
}

/// The end of a list of data segments (mlx5dv.h, `MLX5_INVALID_LKEY`).
pub const INVALID_KEY: u32 = 0x100;

/// What a queue pair is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Reliable connection.
    Rc,
    /// Unreliable datagram, on an InfiniBand port.
    Ud,
    /// Unreliable datagram, on an Ethernet port.
    UdRoce,
}

/// What the reader of requests has to know of their queue.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Its number.
    pub qpn: u32,
    /// Its kind.
    pub transport: Transport,
    /// Most bytes of inline data in a request.
    pub inline_max: usize,
}

/// Data to be sent, or room for what comes back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Within the request.
    Inline(Vec<u8>),
    /// In memory.
    Memory {
        /// First address.
        address: u64,
        /// Its key.
        lkey: u32,
        /// Bytes.
        length: usize,
    },
}

/// Operands of an atomic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomic {
    /// Swap under masks.
    CompareSwap {
        /// Operand bytes: 4 or 8.
        size: usize,
        /// Put there,
        swap: u64,
        /// if this is there,
        compare: u64,
        /// the bits of this,
        swap_mask: u64,
        /// looking at the bits of this.
        compare_mask: u64,
    },
    /// Add; a carry goes no further than a bit of the boundary.
    FetchAdd {
        /// Operand bytes: 4 or 8.
        size: usize,
        /// What is added.
        add: u64,
        /// The highest bit of each field.
        boundary: u64,
    },
}

impl Atomic {
    /// Operand bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::CompareSwap { size, .. } | Self::FetchAdd { size, .. } => size,
        }
    }

    /// What is there afterwards.
    #[must_use]
    pub fn apply(self, old: u64) -> u64 {
        match self {
            Self::CompareSwap { swap, compare, swap_mask, compare_mask, .. } => {
                let equal = (old ^ compare) & compare_mask == 0;
                if equal { old & !swap_mask | swap & swap_mask } else { old }
            }
            Self::FetchAdd { size, add, boundary } => {
                let (mut sum, mut carry) = (0, 0);
                for bit in 0..size * 8 {
                    let ones = (old >> bit & 1) + (add >> bit & 1) + carry;
                    sum |= (ones & 1) << bit;
                    carry = if boundary >> bit & 1 == 1 { 0 } else { ones >> 1 };
                }
                sum
            }
        }
    }
}

/// Whom a datagram is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vector {
    /// The key that both ends have.
    pub qkey: u32,
    /// The queue pair there.
    pub qpn: u32,
    /// The local identifier there, on InfiniBand.
    pub lid: u16,
    /// The address there, on Ethernet.
    pub mac: [u8; 6],
    /// Whether there is a global route.
    pub global: bool,
    /// The global identifier there.
    pub gid: [u8; 16],
    /// Service level.
    pub level: u8,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// Nothing.
    Nop,
    /// A message.
    Send,
    /// A message by datagram.
    Datagram(Vector),
    /// Memory of the other end is written.
    Write(u64, u32),
    /// Memory of the other end is read.
    Read(u64, u32),
    /// Memory of the other end is changed.
    Atomic(u64, u32, Atomic),
    /// A key is freed.
    Invalidate(u32),
    /// A key is given memory, rights, or both.
    Change(u32, Change),
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fence {
    /// Nothing.
    None,
    /// Local changes of keys before it.
    Small,
    /// Reads and atomics before it, too.
    Full,
}

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// Index of its first block.
    pub index: u16,
    /// Basic blocks.
    pub blocks: u16,
    /// As it stands there.
    pub opcode: u8,
    /// It asks for a completion.
    pub signaled: bool,
    /// It asks for an event at the other end.
    pub solicited: bool,
    /// What it waits for.
    pub fence: Fence,
    /// As it stands there.
    pub imm: [u8; 4],
    /// What is to be done.
    pub what: What,
    /// Of what, or with what.
    pub pieces: Vec<Piece>,
}

/// Basic blocks of so many units of 16 bytes.
#[must_use]
pub fn blocks_of(ds: u8) -> u16 {
    u16::from(ds).div_ceil(4)
}

/// Units of 16 bytes that a control segment names.
#[must_use]
pub fn ds_of(ctrl: &[u8]) -> u8 {
    ctrl[7] & 0x3F
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], Fault> {
        let part = self.bytes.get(self.at..self.at + length).ok_or(Fault::BadSize)?;
        let skipped = self.at.next_multiple_of(8) - self.at;
        let words = part.get(skipped..).unwrap_or(&[]).chunks_exact(8);
        if words.map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).any(is_poison) {
            return Err(Fault::StaleBlock);
        }
        self.at += length;
        Ok(part)
    }

    /// Bytes `from..to` of the last `length` are reserved.
    fn reserved(&self, length: usize, from: usize, to: usize) -> Result<(), Fault> {
        let start = self.at - length;
        match (start + from..start + to).find(|at| self.bytes[*at] != 0) {
            Some(at) => Err(Fault::Reserved(u16::try_from(at).unwrap())),
            None => Ok(()),
        }
    }
}

/// Reads a request, all of its bytes and no more.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(bytes: &[u8], index: u16, rules: &Rules) -> Result<Order, Fault> {
    let mut reader = Reader { bytes, at: 0 };
    let ctrl = reader.take(16)?;
    let (opmod, opcode) = (ctrl[0], ctrl[3]);
    if be16(ctrl, 1) != index {
        return Err(Fault::WrongIndex);
    }
    if be32(ctrl, 4) >> 8 != rules.qpn {
        return Err(Fault::WrongQpn);
    }
    if ctrl[7] & 0xC0 != 0 || usize::from(ds_of(ctrl)) * 16 != bytes.len() {
        return Err(Fault::BadSize);
    }
    let (fence, signaled, solicited) = flags(ctrl[11])?;
    // The signature, which is off, and the stream of a DCI.
    reader.reserved(16, 8, 11)?;
    let imm: [u8; 4] = ctrl[12..16].try_into().unwrap();
    let has_imm = matches!(
        opcode,
        opcode::SEND_IMM
            | opcode::RDMA_WRITE_IMM
            | opcode::SEND_INVAL
            | opcode::UMR
            | opcode::LOCAL_INVAL
    );
    if !has_imm {
        reader.reserved(16, 12, 16)?;
    }
    let blocks = blocks_of(ds_of(ctrl));
    if opcode == opcode::NOP {
        // Whatever lies behind the control segment is skipped.
        let (what, pieces) = (What::Nop, Vec::new());
        return Ok(Order { index, blocks, opcode, signaled, solicited, fence, imm, what, pieces });
    }
    let masked = matches!(opcode, opcode::ATOMIC_MASKED_CS | opcode::ATOMIC_MASKED_FA);
    if !(opmod == 0 || masked && matches!(opmod, 8 | 9)) || masked && opmod == 0 {
        return Err(Fault::BadModifier);
    }
    let what = what(&mut reader, (opmod, opcode), imm, rules)?;
    if matches!(what, What::Invalidate(_) | What::Change(..)) && reader.at < bytes.len() {
        return Err(Fault::BadSize);
    }
    let pieces = pieces(&mut reader, rules)?;
    check_pieces(&what, &pieces)?;
    Ok(Order { index, blocks, opcode, signaled, solicited, fence, imm, what, pieces })
}

/// Fence, completion and event bits.
const fn flags(byte: u8) -> Result<(Fence, bool, bool), Fault> {
    let fence = match byte >> 5 {
        0 => Fence::None,
        1 => Fence::Small,
        2..=4 => Fence::Full,
        _ => return Err(Fault::BadFlags),
    };
    // Completion: 0 on error only, 2 always. What else there is, nobody asks for here.
    let signaled = match byte >> 2 & 3 {
        0 => false,
        2 => true,
        _ => return Err(Fault::BadFlags),
    };
    if byte & 0b1_0001 != 0 {
        return Err(Fault::BadFlags);
    }
    Ok((fence, signaled, byte & 2 != 0))
}

fn what(
    reader: &mut Reader<'_>,
    (opmod, opcode): (u8, u8),
    imm: [u8; 4],
    rules: &Rules,
) -> Result<What, Fault> {
    let send = matches!(opcode, opcode::SEND | opcode::SEND_IMM);
    if rules.transport != Transport::Rc {
        let vector = |reader: &mut Reader<'_>| vector(reader, rules.transport);
        return if send { vector(reader).map(What::Datagram) } else { Err(Fault::BadOpcode) };
    }
    match opcode {
        opcode::SEND | opcode::SEND_IMM | opcode::SEND_INVAL => Ok(What::Send),
        opcode::RDMA_WRITE | opcode::RDMA_WRITE_IMM => {
            remote(reader).map(|(address, key)| What::Write(address, key))
        }
        opcode::RDMA_READ => remote(reader).map(|(address, key)| What::Read(address, key)),
        opcode::ATOMIC_CS
        | opcode::ATOMIC_FA
        | opcode::ATOMIC_MASKED_CS
        | opcode::ATOMIC_MASKED_FA => {
            let (address, key) = remote(reader)?;
            Ok(What::Atomic(address, key, atomic(reader, opmod, opcode)?))
        }
        opcode::LOCAL_INVAL => Ok(What::Invalidate(u32::from_be_bytes(imm))),
        opcode::UMR => umr(reader, u32::from_be_bytes(imm)),
        _ => Err(Fault::BadOpcode),
    }
}

fn remote(reader: &mut Reader<'_>) -> Result<(u64, u32), Fault> {
    let segment = reader.take(16)?;
    reader.reserved(16, 12, 16)?;
    Ok((be64(segment, 0), be32(segment, 8)))
}

/// The operands. With a modifier (8: 4 bytes, 9: 8 bytes) they have that size, one after the other: swap, compare and their
/// masks; or the sum and the boundary of fields, filled up to 16 bytes.
fn atomic(reader: &mut Reader<'_>, opmod: u8, opcode: u8) -> Result<Atomic, Fault> {
    let masked = opmod & 8 != 0;
    let bytes = if opmod == 8 { 4 } else { 8 };
    let swaps = matches!(opcode, opcode::ATOMIC_CS | opcode::ATOMIC_MASKED_CS);
    let segment = reader.take(if masked && swaps { bytes * 4 } else { 16 })?;
    let operand = |number: usize| match bytes {
        4 => u64::from(be32(segment, number * 4)),
        _ => be64(segment, number * 8),
    };
    if swaps {
        let ones = u64::MAX >> (64 - bytes * 8);
        let masks = if masked { (operand(2), operand(3)) } else { (ones, ones) };
        let (swap, compare) = (operand(0), operand(1));
        let (swap_mask, compare_mask) = masks;
        return Ok(Atomic::CompareSwap { size: bytes, swap, compare, swap_mask, compare_mask });
    }
    if bytes == 4 {
        reader.reserved(16, 8, 16)?;
    }
    // Of a plain one the second word means nothing, and rdma-core leaves there what was there.
    let boundary = if masked { operand(1) } else { 0 };
    Ok(Atomic::FetchAdd { size: bytes, add: operand(0), boundary })
}

fn vector(reader: &mut Reader<'_>, transport: Transport) -> Result<Vector, Fault> {
    let av = reader.take(48)?;
    reader.reserved(48, 4, 8)?;
    reader.reserved(48, 16, 20)?;
    let to = be32(av, 8);
    let route = be32(av, 28);
    // The extended form is the only one of 48 bytes; the bits between it and the number are reserved.
    if to >> 24 != 0x80 || to & 0xFF_FFFF == 0 || route >> 31 != 0 || route & 0x3000_0000 != 0 {
        return Err(Fault::BadVector);
    }
    let global = route >> 30 == 1;
    let gid: [u8; 16] = av[32..48].try_into().unwrap();
    let mac: [u8; 6] = av[20..26].try_into().unwrap();
    let lid = be16(av, 14);
    let fits = match transport {
        // With Ethernet there always is a route, so the bit for it is reserved; the other end is found by its address.
        Transport::UdRoce => !global && mac != [0; 6] && gid != [0; 16],
        Transport::Rc | Transport::Ud => {
            mac == [0; 6] && lid != 0 && (global || (route == 0 && gid == [0; 16]))
        }
    };
    if !fits {
        return Err(Fault::BadVector);
    }
    let level = if transport == Transport::UdRoce { av[12] >> 1 & 7 } else { av[12] & 0xF };
    let (qkey, qpn) = (be32(av, 0), to & 0xFF_FFFF);
    Ok(Vector { qkey, qpn, lid, mac, global: global || transport == Transport::UdRoce, gid, level })
}

/// Bits of the mask of changes to the context of a key.
mod mask {
    pub(super) const LENGTH: u64 = 1;
    pub(super) const START: u64 = 1 << 6;
    const KEY: u64 = 1 << 13;
    const QPN: u64 = 1 << 14;
    const LOCAL_WRITE: u64 = 1 << 18;
    const REMOTE_READ: u64 = 1 << 19;
    const REMOTE_WRITE: u64 = 1 << 20;
    const ATOMIC: u64 = 1 << 21;
    pub(super) const ORDER_OF_WRITES: u64 = 1 << 25;
    pub(super) const ORDER_OF_READS: u64 = 1 << 47;
    pub(super) const FREE: u64 = 1 << 29;
    pub(super) const KNOWN: u64 =
        LENGTH | START | KEY | QPN | RIGHTS | ORDER_OF_WRITES | ORDER_OF_READS | FREE;
    pub(super) const RIGHTS: u64 = LOCAL_WRITE | REMOTE_READ | REMOTE_WRITE | ATOMIC;
}

/// A change of a key: freed, or given memory of other keys by so many entries, or rights.
fn umr(reader: &mut Reader<'_>, key: u32) -> Result<What, Fault> {
    let control = reader.take(48)?;
    reader.reserved(48, 1, 4)?;
    reader.reserved(48, 16, 48)?;
    let (units, changes) = (usize::from(be16(control, 4)), be64(control, 8));
    // Inline entries, a translation offset, and the two checks.
    if control[0] & !0b1011_1000 != 0 || be16(control, 6) != 0 || changes & !mask::KNOWN != 0 {
        return Err(Fault::BadFlags);
    }
    let context = reader.take(64)?;
    for (from, to) in [(3, 4), (8, 12), (36, 52), (56, 59), (60, 64)] {
        reader.reserved(64, from, to)?;
    }
    // Two bits for the order on PCIe, and no others there.
    let order = (context[1] & 4 != 0, context[59] & 0x40 != 0);
    let may = (changes & mask::ORDER_OF_WRITES != 0, changes & mask::ORDER_OF_READS != 0);
    let others = context[1] & !4 | context[59] & !0x40 | context[0] & !(1 << 6);
    if others != 0 || (order.0 && !may.0) || (order.1 && !may.1) || changes & mask::FREE == 0 {
        return Err(Fault::BadFlags);
    }
    if context[0] & 1 << 6 != 0 {
        return if units == 0 { Ok(What::Invalidate(key)) } else { Err(Fault::BadSize) };
    }
    let has_length = changes & mask::LENGTH != 0;
    if control[0] & 1 << 7 == 0 || units % 4 != 0 || has_length != (units > 0) {
        return Err(Fault::BadSize);
    }
    let mut change = Change {
        start: (changes & mask::START != 0).then(|| be64(context, 16)),
        length: has_length.then(|| be64(context, 24)),
        access: (changes & mask::RIGHTS == mask::RIGHTS).then_some(Access(context[2])),
        check_free: control[0] & 1 << 5 != 0,
        entries: Vec::new(),
    };
    for _ in 0..units {
        let entry = reader.take(16)?;
        match be32(entry, 0) {
            // What fills it up to four.
            0 => reader.reserved(16, 0, 16)?,
            bytes => change.entries.push((be32(entry, 4), be64(entry, 8), u64::from(bytes))),
        }
    }
    let bytes: u64 = change.entries.iter().map(|(_, _, bytes)| bytes).sum();
    if change.length.is_some_and(|length| bytes < length) {
        return Err(Fault::BadData);
    }
    Ok(What::Change(key, change))
}

fn pieces(reader: &mut Reader<'_>, rules: &Rules) -> Result<Vec<Piece>, Fault> {
    let mut pieces = Vec::new();
    let mut inline_bytes = 0;
    while reader.at < reader.bytes.len() {
        let head = be32(reader.take(4)?, 0);
        let length = size(head & !(1 << 31));
        if head >> 31 == 1 {
            inline_bytes += length;
            if length == 0 || inline_bytes > rules.inline_max {
                return Err(Fault::BadInline);
            }
            if reader.at + length > reader.bytes.len() {
                return Err(Fault::BadInline);
            }
            let bytes = reader.take(length)?;
            pieces.push(Piece::Inline(bytes.to_vec()));
            reader.at = reader.at.next_multiple_of(16);
        } else {
            let rest = reader.take(12)?;
            if length == 0 {
                return Err(Fault::BadData);
            }
            let (lkey, address) = (be32(rest, 0), be64(rest, 4));
            pieces.push(Piece::Memory { address, lkey, length });
        }
    }
    Ok(pieces)
}

/// What comes back needs room in memory, and an atomic exactly its own.
fn check_pieces(what: &What, pieces: &[Piece]) -> Result<(), Fault> {
    let inline = pieces.iter().any(|piece| matches!(piece, Piece::Inline(_)));
    if inline && matches!(what, What::Read(..)) {
        return Err(Fault::BadInline);
    }
    let What::Atomic(_, _, atomic) = what else { return Ok(()) };
    match pieces {
        [Piece::Memory { length, .. }] if *length == atomic.size() => Ok(()),
        _ => Err(Fault::BadData),
    }
}
