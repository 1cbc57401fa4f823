//! What the service does with a request, and each client: bytes in, replies out, whatever carries them.
//!
//! ```text
//!   a piece of the stream --> feed --> parser --> command --> store
//!                              |                     |
//!                     the part of a request          +--> replies, in a buffer of the transport's
//!                     that is not whole is kept
//! ```
//!
//! A request that lies whole in a piece is never copied. One that is cut is put together in memory of the client's own, as
//! long as the longest request; what came after it is read where it lies again. Once it is made, nothing allocates.

use core::fmt::Write as _;

use crate::protocol::{Limits, Parser, ProtocolError, Replies, Request, Step};
use crate::store::{Full, Store};

/// Bytes of the longest reply without an argument or a value in it.
const SHORT_REPLY_BYTES: usize = 512;

const OUT_OF_MEMORY: &[u8] = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n";

/// What a client has to get next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// More bytes.
    More,
    /// Room for replies: send those that there are, and feed what was not taken.
    Room,
    /// An end, once the replies are sent.
    Close,
}

/// What came of a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fed {
    /// Bytes of it that were taken.
    pub(crate) taken: usize,
    /// What comes next.
    pub(crate) next: Next,
}

/// One client, as the service knows it.
#[derive(Debug)]
pub(crate) struct Client {
    parser: Parser,
    limits: Limits,
    /// The beginning of a request that is not whole yet.
    kept: Box<[u8]>,
    filled: usize,
    is_closed: bool,
}

impl Client {
    /// One that has just come.
    pub(crate) fn new(limits: Limits) -> Self {
        // Behind the longest request, the beginning of a length that makes it too long.
        let kept = vec![0; limits.request_bytes_max.saturating_add(32)].into_boxed_slice();
        Self { parser: Parser::new(limits), limits, kept, filled: 0, is_closed: false }
    }

    /// As new, for the next client.
    pub(crate) const fn reset(&mut self) {
        self.parser.reset();
        self.filled = 0;
        self.is_closed = false;
    }

    /// Bytes that a buffer for replies needs at least, so that any reply fits.
    pub(crate) const fn reply_bytes_max(limits: Limits) -> usize {
        limits.argument_bytes_max.saturating_add(SHORT_REPLY_BYTES)
    }

    /// Reads what it can of `piece`, and does what it says.
    #[inline]
    pub(crate) fn feed(
        &mut self,
        piece: &[u8],
        store: &mut Store,
        replies: &mut Replies<'_>,
    ) -> Fed {
        let mut taken = 0;
        loop {
            let rest = piece.get(taken..).unwrap_or_default();
            if self.is_closed {
                return Fed { taken: piece.len(), next: Next::Close };
            }
            if rest.is_empty() {
                return Fed { taken, next: Next::More };
            }
            if replies.room() < Self::reply_bytes_max(self.limits) {
                return Fed { taken, next: Next::Room };
            }
            let step = if self.filled == 0 {
                self.whole(rest, store, replies)
            } else {
                self.cut(rest, store, replies)
            };
            debug_assert!(!replies.is_cut(), "a reply is longer than was thought");
            match step {
                Ok(count) => taken = taken.saturating_add(count),
                Err(error) => {
                    replies.protocol_error(error);
                    self.is_closed = true;
                }
            }
        }
    }

    /// The request that `bytes` begin with, where it lies. Returns how many bytes are done with.
    #[inline]
    fn whole(
        &mut self,
        bytes: &[u8],
        store: &mut Store,
        replies: &mut Replies<'_>,
    ) -> Result<usize, ProtocolError> {
        match self.parser.parse(bytes)? {
            Step::Done(end) => {
                let goes_on = obey(&self.parser.request(bytes), store, replies);
                self.is_closed = !goes_on;
                Ok(end)
            }
            Step::More(_) => self.keep(bytes),
        }
    }

    /// A request of which the beginning is kept.
    #[cold]
    fn cut(
        &mut self,
        bytes: &[u8],
        store: &mut Store,
        replies: &mut Replies<'_>,
    ) -> Result<usize, ProtocolError> {
        let mut rest = bytes;
        let mut taken = 0_usize;
        loop {
            let kept = self.kept.get(..self.filled).unwrap_or_default();
            match self.parser.parse(kept)? {
                Step::Done(_) => {
                    let goes_on = obey(&self.parser.request(kept), store, replies);
                    self.is_closed = !goes_on;
                    self.filled = 0;
                    return Ok(taken);
                }
                // No more than are needed, so that nothing of the next request is kept with this one.
                Step::More(count) if !rest.is_empty() => {
                    let (bytes, behind) = rest.split_at(count.min(rest.len()));
                    taken = taken.saturating_add(self.keep(bytes)?);
                    rest = behind;
                }
                Step::More(_) => return Ok(taken),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<usize, ProtocolError> {
        let end = self.filled.saturating_add(bytes.len());
        let room = self.kept.get_mut(self.filled..end).ok_or(ProtocolError::Request)?;
        room.copy_from_slice(bytes);
        self.filled = end;
        Ok(bytes.len())
    }
}

/// Up to eight letters of a name, in lower case, as one word. The bit that makes a letter small makes none of what is no letter.
const fn name_word(name: &[u8]) -> u64 {
    let mut word = 0;
    let mut rest = name;
    while let [head @ .., last] = rest {
        // Evaluated at run time for short names only: the caller looks at the length.
        word = (word << 8) | u64::from_le_bytes([*last | 0x20, 0, 0, 0, 0, 0, 0, 0]);
        rest = head;
    }
    word
}

/// Does what a request says, and says whether more may follow.
#[inline]
fn obey(request: &Request<'_>, store: &mut Store, replies: &mut Replies<'_>) -> bool {
    const GET: u64 = name_word(b"get");
    const SET: u64 = name_word(b"set");
    if request.is_empty() {
        return true;
    }
    let name = request.argument(0);
    match (name.len(), request.len()) {
        (3, 2) if name_word(name) == GET => {
            match store.get(request.argument(1)) {
                Some(value) => replies.bulk(value),
                None => replies.none(),
            }
            true
        }
        (3, 3) if name_word(name) == SET => {
            set(request, store, replies);
            true
        }
        _ => obey_seldom(request, store, replies),
    }
}

#[inline]
fn set(request: &Request<'_>, store: &mut Store, replies: &mut Replies<'_>) {
    match store.set(request.argument(1), request.argument(2)) {
        Ok(_) => replies.ok(),
        Err(Full) => replies.raw(OUT_OF_MEMORY),
    }
}

/// Everything but the two requests that nearly all are.
#[cold]
fn obey_seldom(request: &Request<'_>, store: &mut Store, replies: &mut Replies<'_>) -> bool {
    let name = request.argument(0);
    let mut lower = [0; 8];
    let lower = match lower.get_mut(..name.len()) {
        Some(lower) => {
            lower.copy_from_slice(name);
            lower.make_ascii_lowercase();
            &*lower
        }
        None => &[],
    };
    let count = request.len();
    match (lower, count) {
        (b"ping", 1) => replies.simple("PONG"),
        (b"ping", 2) | (b"echo", 2) => replies.bulk(request.argument(1)),
        (b"set", 4..) => set_where(request, store, replies),
        (b"del", 2..) => {
            replies.integer(request.arguments(1).filter(|key| store.remove(key)).count())
        }
        (b"exists", 2..) => {
            replies.integer(request.arguments(1).filter(|key| store.contains(key)).count());
        }
        (b"dbsize", 1) => replies.integer(store.len()),
        (b"flushall" | b"flushdb", 1..) => {
            store.clear();
            replies.ok();
        }
        (b"config", 2..) => config(request, replies),
        // No descriptions: a client that asks for them does without.
        (b"command", 1..) => replies.array(0),
        (b"client", 2..) => replies.ok(),
        (b"select", 2) if request.argument(1) == b"0" => replies.ok(),
        (b"select", 2) => replies.error("DB index is out of range"),
        (b"hello", 1) => hello(replies),
        (b"hello", 2) if request.argument(1) == b"2" => hello(replies),
        (b"hello", 2..) => replies.raw(b"-NOPROTO unsupported protocol version\r\n"),
        (b"quit", 1..) => {
            replies.ok();
            return false;
        }
        (
            b"ping" | b"echo" | b"get" | b"set" | b"del" | b"exists" | b"dbsize" | b"config"
            | b"client" | b"select",
            _,
        ) => {
            let name = core::str::from_utf8(lower).unwrap_or_default();
            let _cut = write!(replies, "-ERR wrong number of arguments for '{name}' command\r\n");
        }
        _ => unknown(request, replies),
    }
    true
}

/// SET with options: only if there is such a key, or none. Nothing expires here.
fn set_where(request: &Request<'_>, store: &mut Store, replies: &mut Replies<'_>) {
    let (mut wants_new, mut wants_old, mut wants_reply) = (false, false, false);
    for option in request.arguments(3) {
        match option {
            _ if option.eq_ignore_ascii_case(b"nx") => wants_new = true,
            _ if option.eq_ignore_ascii_case(b"xx") => wants_old = true,
            _ if option.eq_ignore_ascii_case(b"get") => wants_reply = true,
            _ if option.eq_ignore_ascii_case(b"keepttl") => {}
            _ => return replies.error("syntax error"),
        }
    }
    let old = store.get(request.argument(1));
    let is_there = old.is_some();
    if wants_new && wants_old {
        return replies.error("syntax error");
    }
    let is_wanted = !(wants_new && is_there || wants_old && !is_there);
    if !wants_reply {
        return if is_wanted { set(request, store, replies) } else { replies.none() };
    }
    let before = replies.written().len();
    match old {
        Some(value) => replies.bulk(value),
        None => replies.none(),
    }
    if is_wanted && store.set(request.argument(1), request.argument(2)).is_err() {
        replies.take_back_to(before);
        replies.raw(OUT_OF_MEMORY);
    }
}

/// CONFIG GET, for what clients ask about before they begin; anything else is not there.
fn config(request: &Request<'_>, replies: &mut Replies<'_>) {
    if !request.argument(1).eq_ignore_ascii_case(b"get") || request.len() != 3 {
        return replies.error("only CONFIG GET with one parameter is supported");
    }
    let name = request.argument(2);
    let value = match name {
        _ if name.eq_ignore_ascii_case(b"save") => &b""[..],
        _ if name.eq_ignore_ascii_case(b"appendonly") => b"no",
        _ => return replies.array(0),
    };
    replies.array(2);
    replies.bulk(name);
    replies.bulk(value);
}

fn hello(replies: &mut Replies<'_>) {
    replies.array(6);
    replies.bulk(b"server");
    replies.bulk(b"spinwire-resp");
    replies.bulk(b"proto");
    replies.integer(2);
    replies.bulk(b"mode");
    replies.bulk(b"standalone");
}

/// The name, and the arguments as far as they go, with nothing in them that could end the line.
fn unknown(request: &Request<'_>, replies: &mut Replies<'_>) {
    const SHOWN_BYTES: usize = 128;
    let line = |replies: &mut Replies<'_>, text: &[u8], room: usize| {
        let text = text.get(..room).unwrap_or(text);
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        for byte in text.get(..end).unwrap_or_default() {
            replies.raw(&[if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }]);
        }
        end.saturating_add(3)
    };
    replies.raw(b"-ERR unknown command '");
    line(replies, request.argument(0), SHOWN_BYTES);
    replies.raw(b"', with args beginning with: ");
    let mut shown = 0_usize;
    for argument in request.arguments(1) {
        if shown >= SHOWN_BYTES {
            break;
        }
        replies.raw(b"'");
        shown = shown.saturating_add(line(replies, argument, SHOWN_BYTES.saturating_sub(shown)));
        replies.raw(b"' ");
    }
    replies.raw(b"\r\n");
}
