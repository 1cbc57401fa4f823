//! What the client asks of the server, and what that answers: one message of five words, under a tag of its own.

/// The tag of orders and of their answers.
pub(crate) const ORDER_TAG: u64 = 0x5350_494E_4F52_4452;
/// The tag of measured messages, with `--tagged`.
pub(crate) const DATA_TAG: u64 = 0x5350_494E_4441_5441;
/// Bytes of an order.
pub(crate) const ORDER_BYTES: usize = 40;

/// How measured messages are marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Marking {
    /// Without a tag.
    Untagged,
    /// With [`DATA_TAG`].
    Tagged,
}

/// What the server is to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Bounce the bare thing so many times.
    Floor { count: u64, size: u64 },
    /// Open the bare connection, and answer with its port. Over UDP: the client's own has this one, and messages have up to so
    /// many bytes.
    OpenFloor { port: u64, size: u64 },
    /// Send back so many messages.
    Echo { count: u64, size: u64, marking: Marking },
    /// Copy so many blocks out of bare shared memory.
    CopyOut { count: u64, size: u64 },
    /// Receive and check so many messages, then answer with the number of bad ones.
    Drain { count: u64, size: u64, marking: Marking },
    /// Send back so many buffers of the pool.
    EchoLoans { count: u64, size: u64, marking: Marking },
    /// Receive and check so many buffers of the pool, then answer with the number of bad ones.
    DrainLoans { count: u64, size: u64, marking: Marking },
    /// Answer so many writes to memory of yours, say where that is, by writes to this place.
    EchoWrites { count: u64, size: u64, address: u64, key: u64 },
    /// Let so many writes come, and say where to.
    TakeWrites { count: u64, size: u64 },
    /// The answer to either: a place.
    Place { address: u64, key: u64 },
    /// The answer: ready, or done; a number that depends on the order.
    Done { value: u64 },
    /// That was all.
    Bye,
    /// Say what has come, where something may be lost, or where nobody is told of what comes.
    Tally,
    /// The answer to that: messages that came, those of them that came again or changed, and the nanoseconds from the first to the last.
    Took { received: u64, repeated: u64, changed: u64, ns: u64 },
    /// The answer to messages that are too long: this is the longest.
    TooLong { most: u64 },
    /// The stream ends with its first so many messages, however many were to come.
    Enough { count: u64 },
}

impl Order {
    /// The message.
    pub(crate) fn encode(self) -> [u8; ORDER_BYTES] {
        let words = match self {
            Self::Floor { count, size } => [1, count, size, 0, 0],
            Self::OpenFloor { port, size } => [9, port, size, 0, 0],
            Self::Echo { count, size, marking } => [2, count, size, marked(marking), 0],
            Self::CopyOut { count, size } => [3, count, size, 0, 0],
            Self::Drain { count, size, marking } => [4, count, size, marked(marking), 0],
            Self::Done { value } => [5, value, 0, 0, 0],
            Self::Bye => [6, 0, 0, 0, 0],
            Self::EchoLoans { count, size, marking } => [7, count, size, marked(marking), 0],
            Self::DrainLoans { count, size, marking } => [8, count, size, marked(marking), 0],
            Self::Tally => [10, 0, 0, 0, 0],
            Self::Took { received, repeated, changed, ns } => [11, received, repeated, changed, ns],
            Self::TooLong { most } => [12, most, 0, 0, 0],
            Self::EchoWrites { count, size, address, key } => [13, count, size, address, key],
            Self::TakeWrites { count, size } => [14, count, size, 0, 0],
            Self::Place { address, key } => [15, address, key, 0, 0],
            Self::Enough { count } => [16, count, 0, 0, 0],
        };
        let mut bytes = [0; ORDER_BYTES];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = u64::to_le_bytes(word);
        }
        bytes
    }

    /// The order in a message; `None` where it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let words: &[u8; ORDER_BYTES] = bytes.try_into().ok()?;
        let &[kind, count, size, third, fourth] = words.as_chunks::<8>().0 else { return None };
        let [kind, count, size, third, fourth] =
            [kind, count, size, third, fourth].map(u64::from_le_bytes);
        let marking = if third == 0 { Marking::Untagged } else { Marking::Tagged };
        match kind {
            1 => Some(Self::Floor { count, size }),
            9 => Some(Self::OpenFloor { port: count, size }),
            2 => Some(Self::Echo { count, size, marking }),
            3 => Some(Self::CopyOut { count, size }),
            4 => Some(Self::Drain { count, size, marking }),
            5 => Some(Self::Done { value: count }),
            6 => Some(Self::Bye),
            7 => Some(Self::EchoLoans { count, size, marking }),
            8 => Some(Self::DrainLoans { count, size, marking }),
            10 => Some(Self::Tally),
            11 => Some(Self::Took { received: count, repeated: size, changed: third, ns: fourth }),
            12 => Some(Self::TooLong { most: count }),
            13 => Some(Self::EchoWrites { count, size, address: third, key: fourth }),
            14 => Some(Self::TakeWrites { count, size }),
            15 => Some(Self::Place { address: count, key: size }),
            16 => Some(Self::Enough { count }),
            _ => None,
        }
    }
}

const fn marked(marking: Marking) -> u64 {
    match marking {
        Marking::Untagged => 0,
        Marking::Tagged => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_back_and_nonsense_does_not() {
        let marking = Marking::Tagged;
        for order in [
            Order::Floor { count: 7, size: 64 },
            Order::OpenFloor { port: 7, size: 64 },
            Order::Echo { count: 1, size: 2, marking },
            Order::CopyOut { count: 3, size: 4 },
            Order::Drain { count: 5, size: 6, marking: Marking::Untagged },
            Order::Done { value: 9 },
            Order::Bye,
            Order::EchoLoans { count: 1, size: 2, marking },
            Order::DrainLoans { count: 3, size: 4, marking: Marking::Untagged },
            Order::Tally,
            Order::Took { received: 1, repeated: 2, changed: 3, ns: 4 },
            Order::TooLong { most: 5 },
            Order::EchoWrites { count: 1, size: 2, address: 3, key: 4 },
            Order::TakeWrites { count: 1, size: 2 },
            Order::Place { address: 5, key: 6 },
            Order::Enough { count: 7 },
        ] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        assert_eq!(Order::decode(&[0; ORDER_BYTES]), None);
        assert_eq!(Order::decode(&[1; 39]), None);
    }
}
