//! Requests in, replies out: the protocol of Redis, version 2, as far as this service speaks it.
//!
//! ```text
//!   *3 CRLF  $3 CRLF SET CRLF  $5 CRLF price CRLF  $3 CRLF 101 CRLF        a request: an array of strings
//!   PING LF                                                              or a line, for people
//! ```
//!
//! The parser keeps its place between two looks, so that a request that comes in pieces is read once; it holds no bytes,
//! only where the arguments lie. What a client may ask for is bounded: so many arguments, so many bytes. Beyond that, and
//! for anything that is no request, there is an error, and the connection ends.

use core::fmt;

/// Most arguments of a request, its name included.
pub(crate) const ARGS_MAX: usize = 64;

/// Bytes of the longest request that is a line.
pub(crate) const LINE_BYTES_MAX: usize = 1024;

/// Digits of a number that still has no end: longer ones are none.
const DIGITS_MAX: usize = 10;

/// How much a client may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of one argument.
    pub(crate) argument_bytes_max: usize,
    /// Bytes of one request as it travels.
    pub(crate) request_bytes_max: usize,
}

impl Limits {
    /// Arguments of up to that many bytes, and a little more for the whole request.
    pub(crate) const fn of_arguments(argument_bytes_max: usize) -> Self {
        Self { argument_bytes_max, request_bytes_max: argument_bytes_max.saturating_add(4096) }
    }
}

/// Why a connection cannot go on. Displayed as the reply says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ProtocolError {
    /// The number of arguments is none, or too great.
    Count,
    /// The length of an argument is none, or too great.
    Length,
    /// An argument does not begin with a dollar sign, but with this.
    NoDollar(u8),
    /// An argument is longer than it says.
    NoEnd,
    /// The request as a whole is too long.
    Request,
    /// The line is too long.
    Line,
    /// A quote that is not closed, or not followed by a blank.
    Quotes,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Count => "invalid multibulk length",
            Self::Length => "invalid bulk length",
            Self::NoDollar(byte) => {
                return write!(f, "expected '$', got '{}'", byte.escape_ascii());
            }
            Self::NoEnd => "expected CRLF after an argument",
            Self::Request => "too big request",
            Self::Line => "too big inline request",
            Self::Quotes => "unbalanced quotes in request",
        })
    }
}

impl core::error::Error for ProtocolError {}

/// How far a look at the bytes of a request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// At least so many bytes more are needed.
    More(usize),
    /// The request ends here. It has no arguments where there was nothing in it.
    Done(usize),
}

/// Where an argument lies.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Start,
    Line,
    Count,
    Length,
    /// Within an argument that ends there.
    Argument {
        end: usize,
    },
}

/// Reads requests, one after the other. It is given the bytes of a request from its start each time, those that it had before
/// and more.
#[derive(Debug)]
pub(crate) struct Parser {
    limits: Limits,
    stage: Stage,
    /// What was read of this request.
    at: usize,
    /// Arguments that are still to come.
    wanted: usize,
    count: usize,
    spans: [Span; ARGS_MAX],
}

/// A request: its arguments, the name first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'b> {
    bytes: &'b [u8],
    spans: &'b [Span],
}

impl<'b> Request<'b> {
    /// Number of arguments, the name included.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is nothing in it.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument of that number; the name is 0. Empty where there is none.
    #[inline]
    pub(crate) fn argument(&self, number: usize) -> &'b [u8] {
        let span = self.spans.get(number);
        span.and_then(|span| self.bytes.get(span.start..span.end)).unwrap_or_default()
    }

    /// The arguments from that number on.
    pub(crate) fn arguments(&self, from: usize) -> impl Iterator<Item = &'b [u8]> {
        let spans = self.spans.get(from..).unwrap_or_default();
        let bytes = self.bytes;
        spans.iter().map(move |span| bytes.get(span.start..span.end).unwrap_or_default())
    }
}

impl Parser {
    /// A parser at the start of a request.
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            stage: Stage::Start,
            at: 0,
            wanted: 0,
            count: 0,
            spans: [Span { start: 0, end: 0 }; ARGS_MAX],
        }
    }

    /// Begins a request anew.
    #[inline]
    pub(crate) const fn reset(&mut self) {
        self.stage = Stage::Start;
    }

    /// The request in `bytes`, after [`Step::Done`] for the same bytes.
    #[inline]
    pub(crate) fn request<'b>(&'b self, bytes: &'b [u8]) -> Request<'b> {
        Request { bytes, spans: self.spans.get(..self.count).unwrap_or_default() }
    }

    /// Reads on in the request that `bytes` begin with. After [`Step::Done`] the next call is about the next request.
    ///
    /// # Errors
    /// What is wrong with it. Nothing that follows can be understood.
    #[inline]
    pub(crate) fn parse(&mut self, bytes: &[u8]) -> Result<Step, ProtocolError> {
        if self.stage == Stage::Start {
            self.at = 0;
            self.count = 0;
            match bytes.first() {
                None => return Ok(Step::More(1)),
                Some(b'*') => {
                    self.stage = Stage::Count;
                    self.at = 1;
                }
                Some(_) => self.stage = Stage::Line,
            }
        }
        match self.stage {
            Stage::Line => return self.line(bytes),
            Stage::Count => match number(self.rest(bytes)) {
                Number::Partial => return Ok(Step::More(1)),
                Number::Bad => return Err(ProtocolError::Count),
                Number::Negative { taken } | Number::Is { value: 0, taken } => {
                    return Ok(self.done(self.at.wrapping_add(taken)));
                }
                Number::Is { value, .. } if value > ARGS_MAX => return Err(ProtocolError::Count),
                Number::Is { value, taken } => {
                    self.at = self.at.wrapping_add(taken);
                    self.wanted = value;
                    self.stage = Stage::Length;
                }
            },
            Stage::Start | Stage::Length | Stage::Argument { .. } => {}
        }
        self.arguments(bytes)
    }

    #[inline]
    fn arguments(&mut self, bytes: &[u8]) -> Result<Step, ProtocolError> {
        while self.wanted > 0 {
            let end = match self.stage {
                Stage::Argument { end } => end,
                Stage::Start | Stage::Line | Stage::Count | Stage::Length => {
                    match self.length(bytes)? {
                        None => return Ok(Step::More(1)),
                        Some(end) => end,
                    }
                }
            };
            match bytes.get(end..end.wrapping_add(2)) {
                Some(b"\r\n") => {}
                Some(_) => return Err(ProtocolError::NoEnd),
                None => {
                    self.stage = Stage::Argument { end };
                    return Ok(Step::More(end.wrapping_add(2).saturating_sub(bytes.len())));
                }
            }
            if let Some(span) = self.spans.get_mut(self.count) {
                *span = Span { start: self.at, end };
            }
            self.count = self.count.wrapping_add(1);
            self.wanted = self.wanted.wrapping_sub(1);
            self.at = end.wrapping_add(2);
            self.stage = Stage::Length;
        }
        Ok(self.done(self.at))
    }

    /// Where the argument ends whose length comes next; it starts where the parser stands then.
    #[inline]
    fn length(&mut self, bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some((first, digits)) = self.rest(bytes).split_first() else {
            return Ok(None);
        };
        if *first != b'$' {
            return Err(ProtocolError::NoDollar(*first));
        }
        let (value, taken) = match number(digits) {
            Number::Partial => return Ok(None),
            Number::Is { value, taken } if value <= self.limits.argument_bytes_max => {
                (value, taken)
            }
            Number::Is { .. } | Number::Negative { .. } | Number::Bad => {
                return Err(ProtocolError::Length);
            }
        };
        self.at = self.at.wrapping_add(1).wrapping_add(taken);
        let end = self.at.saturating_add(value);
        if end.saturating_add(2) > self.limits.request_bytes_max {
            return Err(ProtocolError::Request);
        }
        Ok(Some(end))
    }

    #[inline]
    fn rest<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes.get(self.at..).unwrap_or_default()
    }

    #[inline]
    const fn done(&mut self, end: usize) -> Step {
        self.stage = Stage::Start;
        Step::Done(end)
    }

    /// A request that is a line: words between blanks, in quotes where they hold blanks.
    #[cold]
    fn line(&mut self, bytes: &[u8]) -> Result<Step, ProtocolError> {
        let within = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
        let new = within.get(self.at..).unwrap_or_default();
        let Some(length) = new.iter().position(|byte| *byte == b'\n') else {
            self.at = within.len();
            let is_full = within.len() == LINE_BYTES_MAX;
            return if is_full { Err(ProtocolError::Line) } else { Ok(Step::More(1)) };
        };
        let end = self.at.wrapping_add(length);
        let line = bytes.get(..end).unwrap_or_default();
        let mut at = 0;
        while let Some((start, stop, next)) = word(line, at)? {
            let span = self.spans.get_mut(self.count).ok_or(ProtocolError::Count)?;
            *span = Span { start, end: stop };
            self.count = self.count.wrapping_add(1);
            at = next;
        }
        Ok(self.done(end.wrapping_add(1)))
    }
}

/// The next word of a line from `at` on: where it starts and ends, and where to look for the one after it.
fn word(line: &[u8], at: usize) -> Result<Option<(usize, usize, usize)>, ProtocolError> {
    let is_blank = |byte: u8| byte.is_ascii_whitespace() || byte == 0 || byte == 0x0b;
    let rest = line.get(at..).unwrap_or_default();
    let Some(blanks) = rest.iter().position(|byte| !is_blank(*byte)) else {
        return Ok(None);
    };
    let start = at.wrapping_add(blanks);
    let rest = line.get(start..).unwrap_or_default();
    let quote = rest.first().copied().filter(|byte| matches!(byte, b'"' | b'\''));
    let Some(quote) = quote else {
        let length = rest.iter().position(|byte| is_blank(*byte)).unwrap_or(rest.len());
        let word = rest.get(..length).unwrap_or_default();
        // A quote within a word would have to be taken out of it, and a request is never copied.
        if word.iter().any(|byte| matches!(byte, b'"' | b'\'')) {
            return Err(ProtocolError::Quotes);
        }
        let end = start.wrapping_add(length);
        return Ok(Some((start, end, end)));
    };
    let inside = rest.get(1..).unwrap_or_default();
    let length = inside.iter().position(|byte| *byte == quote).ok_or(ProtocolError::Quotes)?;
    let inside = inside.get(..length).unwrap_or_default();
    let start = start.wrapping_add(1);
    let end = start.wrapping_add(length);
    let next = end.wrapping_add(1);
    // Nor are escapes taken out.
    if inside.contains(&b'\\') || line.get(next).is_some_and(|byte| !is_blank(*byte)) {
        return Err(ProtocolError::Quotes);
    }
    Ok(Some((start, end, next)))
}

/// A number that ends with CRLF, and how many bytes it takes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Number {
    Partial,
    Bad,
    Negative { taken: usize },
    Is { value: usize, taken: usize },
}

#[inline]
fn number(text: &[u8]) -> Number {
    if let [digit @ b'0'..=b'9', b'\r', b'\n', ..] = text {
        return Number::Is { value: usize::from(digit.wrapping_sub(b'0')), taken: 3 };
    }
    long_number(text)
}

fn long_number(text: &[u8]) -> Number {
    let is_negative = text.first() == Some(&b'-');
    let digits = text.get(usize::from(is_negative)..).unwrap_or_default();
    let mut value = 0_usize;
    for (index, byte) in digits.iter().enumerate().take(DIGITS_MAX.wrapping_add(1)) {
        match byte {
            // No zero in front, as Redis has it.
            b'0'..=b'9' if (index == 0 || value > 0) && index < DIGITS_MAX => {
                let digit = usize::from(byte.wrapping_sub(b'0'));
                value = value.wrapping_mul(10).wrapping_add(digit);
            }
            b'\r' if index > 0 && !(is_negative && value == 0) => {
                let taken = index.wrapping_add(2).wrapping_add(usize::from(is_negative));
                return match digits.get(index.wrapping_add(1)) {
                    None => Number::Partial,
                    Some(b'\n') if is_negative => Number::Negative { taken },
                    Some(b'\n') => Number::Is { value, taken },
                    Some(_) => Number::Bad,
                };
            }
            _ => return Number::Bad,
        }
    }
    Number::Partial
}

/// Replies, one after the other, in a buffer of fixed size. What does not fit is dropped and told by [`Replies::is_cut`]; who asks for
/// [`Replies::room`] first never sees that.
#[derive(Debug)]
pub(crate) struct Replies<'b> {
    bytes: &'b mut [u8],
    filled: usize,
    is_cut: bool,
}

impl<'b> Replies<'b> {
    /// None yet.
    pub(crate) const fn new(bytes: &'b mut [u8]) -> Self {
        Self { bytes, filled: 0, is_cut: false }
    }

    /// Bytes that still fit.
    #[inline]
    pub(crate) const fn room(&self) -> usize {
        self.bytes.len().wrapping_sub(self.filled)
    }

    /// What there is to send.
    pub(crate) fn written(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// Takes back what was written since `filled` was the length of [`Replies::written`].
    pub(crate) const fn take_back_to(&mut self, filled: usize) {
        if filled <= self.filled {
            self.filled = filled;
        }
    }

    /// Whether something did not fit.
    pub(crate) const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Bytes as they are.
    #[inline]
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        let end = self.filled.saturating_add(bytes.len());
        match self.bytes.get_mut(self.filled..end) {
            Some(to) => {
                to.copy_from_slice(bytes);
                self.filled = end;
            }
            None => self.is_cut = true,
        }
    }

    /// `+text`
    #[inline]
    pub(crate) fn simple(&mut self, text: &str) {
        self.raw(b"+");
        self.raw(text.as_bytes());
        self.raw(b"\r\n");
    }

    /// `+OK`
    #[inline]
    pub(crate) fn ok(&mut self) {
        self.raw(b"+OK\r\n");
    }

    /// `$-1`: there is no such thing.
    #[inline]
    pub(crate) fn none(&mut self) {
        self.raw(b"$-1\r\n");
    }

    /// A string.
    #[inline]
    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.number(b'$', bytes.len());
        self.raw(bytes);
        self.raw(b"\r\n");
    }

    /// A number.
    #[inline]
    pub(crate) fn integer(&mut self, value: usize) {
        self.number(b':', value);
    }

    /// The start of an array: so many replies follow that belong to it.
    pub(crate) fn array(&mut self, count: usize) {
        self.number(b'*', count);
    }

    /// `-ERR text`
    #[cold]
    pub(crate) fn error(&mut self, text: &str) {
        self.raw(b"-ERR ");
        self.raw(text.as_bytes());
        self.raw(b"\r\n");
    }

    /// The last reply of a connection.
    #[cold]
    pub(crate) fn protocol_error(&mut self, error: ProtocolError) {
        self.raw(b"-ERR Protocol error: ");
        // What does not fit is told by `is_cut`.
        let _cut = fmt::Write::write_fmt(self, format_args!("{error}"));
        self.raw(b"\r\n");
    }

    #[inline]
    fn number(&mut self, mark: u8, value: usize) {
        if let (Ok(value), true) = (u8::try_from(value), value < 10) {
            return self.raw(&[mark, b'0'.wrapping_add(value), b'\r', b'\n']);
        }
        let mut digits = [0; 24];
        let mut from = digits.len();
        let mut rest = value;
        while let Some(at) = from.checked_sub(1) {
            let Some(place) = digits.get_mut(at) else { break };
            // Less than 10.
            *place = b'0'.wrapping_add(u8::try_from(rest % 10).unwrap_or(0));
            from = at;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.raw(&[mark]);
        self.raw(digits.get(from..).unwrap_or_default());
        self.raw(b"\r\n");
    }
}

impl fmt::Write for Replies<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.raw(text.as_bytes());
        Ok(())
    }
}
