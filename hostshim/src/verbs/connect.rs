//! What two ends tell each other before their queue pairs are connected, and how it travels over TCP.
//!
//! A card is one line of text, so that it can be read, and pasted, by people:
//! `spinwire-verbs/1 qpn=17 psn=9344123 lid=0 gid=::ffff:10.77.0.1 mtu=4096`

use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::device::Mtu;
use super::gid::Gid;

/// What a queue pair's peer must know of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Card {
    /// Its number.
    pub qp_num: u32,
    /// The number of its first packet.
    pub psn: u32,
    /// The local id of its port; 0 on Ethernet.
    pub lid: u16,
    /// The address of its port.
    pub gid: Gid,
    /// What its port carries.
    pub mtu: Mtu,
}

/// Why a line is no card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CardError {
    /// It does not begin as a card does: the other end is something else.
    Stranger,
    /// Another version of this library.
    Version {
        /// Which.
        theirs: u32,
    },
    /// A field is missing, or its value is out of range.
    Field(&'static str),
    /// More bytes than a card has, or bytes that are no text.
    Garbage,
}

impl fmt::Display for CardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stranger => f.write_str(
                "the other end does not speak spinwire-verbs; remedy: check host and port",
            ),
            Self::Version { theirs } => write!(
                f,
                "version: ours {VERSION}, theirs {theirs}; remedy: run the same version at both ends"
            ),
            Self::Field(name) => write!(f, "the other end's {name} is missing or out of range"),
            Self::Garbage => f.write_str("the other end sent no card"),
        }
    }
}

impl core::error::Error for CardError {}

/// What every card begins with, and the version.
const MAGIC: &str = "spinwire-verbs/";
const VERSION: u32 = 1;
/// A card is shorter than this.
const LINE_MAX: usize = 256;

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { qp_num, psn, lid, gid, mtu } = self;
        write!(f, "{MAGIC}{VERSION} qpn={qp_num} psn={psn} lid={lid} gid={gid} mtu={mtu}")
    }
}

impl FromStr for Card {
    type Err = CardError;

    fn from_str(line: &str) -> Result<Self, CardError> {
        let rest = line.trim_end().strip_prefix(MAGIC).ok_or(CardError::Stranger)?;
        let mut words = rest.split(' ');
        let version = words.next().and_then(|word| word.parse().ok());
        match version.ok_or(CardError::Stranger)? {
            VERSION => {}
            theirs => return Err(CardError::Version { theirs }),
        }
        let mut field = |name: &'static str| {
            let word = words.next().and_then(|word| word.strip_prefix(name));
            word.and_then(|word| word.strip_prefix('=')).ok_or(CardError::Field(name))
        };
        let number = |text: &str, name, most: u32| match text.parse::<u32>() {
            Ok(value) if value <= most => Ok(value),
            _ => Err(CardError::Field(name)),
        };
        let qp_num = number(field("qpn")?, "qpn", 0x00ff_ffff)?;
        let psn = number(field("psn")?, "psn", 0x00ff_ffff)?;
        let lid = field("lid")?.parse().map_err(|_why| CardError::Field("lid"))?;
        let gid = field("gid")?.parse().map_err(|_why| CardError::Field("gid"))?;
        let bytes = number(field("mtu")?, "mtu", 4096)?;
        let mtu = (1..=5).filter_map(Mtu::from_code).find(|mtu| mtu.bytes() == bytes);
        Ok(Self { qp_num, psn, lid, gid, mtu: mtu.ok_or(CardError::Field("mtu"))? })
    }
}

/// Why cards were not exchanged.
#[derive(Debug)]
pub enum ConnectError {
    /// The way between the two ends.
    Io(io::Error),
    /// What came is no card.
    Card(CardError),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "exchanging queue pairs: {e}"),
            Self::Card(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for ConnectError {}

impl From<io::Error> for ConnectError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<CardError> for ConnectError {
    fn from(e: CardError) -> Self {
        Self::Card(e)
    }
}

/// Sends this end's cards over a connected socket and reads as many of the other's, within `limit`. Afterwards both ends know both. Then each
/// connects its pairs, and calls this once more with no cards: who returns from that knows that the other can receive.
///
/// # Errors
/// [`ConnectError`]; the socket is of no use then.
pub fn exchange(
    stream: &TcpStream,
    mine: &[Card],
    limit: Duration,
) -> Result<Vec<Card>, ConnectError> {
    let until = Instant::now() + limit;
    let mut text = String::new();
    for card in mine {
        text.push_str(&format!("{card}\n"));
    }
    text.push_str(END);
    stream.set_write_timeout(Some(limit.max(Duration::from_millis(1))))?;
    (&mut &*stream).write_all(text.as_bytes())?;
    let mut theirs = Vec::new();
    loop {
        let line = line(stream, until)?;
        if line.as_str() == END.trim_end() {
            break;
        }
        if theirs.len() == mine.len() {
            return Err(CardError::Garbage.into());
        }
        theirs.push(line.parse()?);
    }
    if theirs.len() == mine.len() {
        Ok(theirs)
    } else {
        Err(CardError::Field("number of queue pairs").into())
    }
}

/// Reads one card, within `limit`.
pub(super) fn read_card(stream: &TcpStream, limit: Duration) -> Result<Card, ConnectError> {
    Ok(line(stream, Instant::now() + limit)?.parse()?)
}

/// The end of a list of cards.
const END: &str = "ready\n";

/// One line, without what follows it: that may already be something else.
fn line(stream: &TcpStream, until: Instant) -> Result<String, ConnectError> {
    let mut bytes = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut byte = [0];
        match (&mut &*stream).read(&mut byte) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) if bytes.len() == LINE_MAX => return Err(CardError::Garbage.into()),
            Ok(_) => bytes.extend_from_slice(&byte),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            Err(e) => return Err(e.into()),
        }
    }
    String::from_utf8(bytes).map_err(|_why| CardError::Garbage.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn card() -> Card {
        let gid = "::ffff:10.77.0.1".parse().unwrap();
        Card { qp_num: 17, psn: 0xff_ffff, lid: 3, gid, mtu: Mtu::B4096 }
    }

    #[test]
    fn a_card_reads_as_it_was_written() {
        let text = card().to_string();
        assert_eq!(
            text,
            "spinwire-verbs/1 qpn=17 psn=16777215 lid=3 gid=::ffff:10.77.0.1 mtu=4096"
        );
        assert_eq!(text.parse(), Ok(card()));
        assert!(text.len() < LINE_MAX);
    }

    #[test]
    fn what_is_no_card_says_which_field_is_wrong() {
        let text = card().to_string();
        for (from, to, why) in [
            ("spinwire-verbs", "HTTP", CardError::Stranger),
            ("/1 ", "/2 ", CardError::Version { theirs: 2 }),
            ("/1 ", "/one ", CardError::Stranger),
            ("qpn=17", "qpn=16777216", CardError::Field("qpn")),
            ("qpn=17 ", "", CardError::Field("qpn")),
            ("psn=16777215", "psn=-1", CardError::Field("psn")),
            ("lid=3", "lid=65536", CardError::Field("lid")),
            ("gid=::ffff:10.77.0.1", "gid=nobody", CardError::Field("gid")),
            ("mtu=4096", "mtu=1000", CardError::Field("mtu")),
            ("mtu=4096", "", CardError::Field("mtu")),
        ] {
            assert!(text.contains(from));
            assert_eq!(text.replace(from, to).parse::<Card>(), Err(why), "{from} -> {to}");
        }
    }

    fn with_peer(
        peer: impl FnOnce(TcpStream) + Send + 'static,
        mine: &[Card],
    ) -> Result<Vec<Card>, ConnectError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let other = std::thread::spawn(move || peer(listener.accept().unwrap().0));
        let stream = TcpStream::connect(to).unwrap();
        let answer = exchange(&stream, mine, Duration::from_secs(5));
        drop(stream);
        other.join().unwrap();
        answer
    }

    #[test]
    fn both_ends_know_both() {
        let theirs = Card { qp_num: 99, ..card() };
        let peer = move |stream: TcpStream| {
            let seen = exchange(&stream, &[theirs, card()], Duration::from_secs(5)).unwrap();
            assert_eq!(seen, [card(), theirs]);
        };
        assert_eq!(with_peer(peer, &[card(), theirs]).unwrap(), [theirs, card()]);
    }

    #[test]
    fn strangers_and_floods_end_in_errors() {
        let says = |bytes: Vec<u8>| {
            let peer = move |mut stream: TcpStream| {
                let _gone = stream.write_all(&bytes);
                let _what_they_said = stream.read(&mut [0; 1024]);
            };
            with_peer(peer, &[card()])
        };
        let stranger = says(b"HTTP/1.1 400 Bad Request\n".to_vec());
        assert!(matches!(stranger, Err(ConnectError::Card(CardError::Stranger))), "{stranger:?}");
        let flood = says(vec![b'x'; 100_000]);
        assert!(matches!(flood, Err(ConnectError::Card(CardError::Garbage))), "{flood:?}");
        let none = says(END.as_bytes().to_vec());
        assert!(matches!(none, Err(ConnectError::Card(CardError::Field(_)))), "{none:?}");
        let two = says(format!("{}\n{}\n{END}", card(), card()).into_bytes());
        assert!(matches!(two, Err(ConnectError::Card(CardError::Garbage))), "{two:?}");
        let no_text = says(vec![0xff, b'\n']);
        assert!(matches!(no_text, Err(ConnectError::Card(CardError::Garbage))), "{no_text:?}");
        assert!(matches!(says(Vec::new()), Err(ConnectError::Io(_))));
    }
}
