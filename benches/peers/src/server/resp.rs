//! The least that answers `redis-benchmark`: every SET is well, every GET has the same value, and
//! nothing is kept. How fast the client can be at all.

use super::bare::Service;

/// The answers of one connection.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// A command that has not come whole.
    begun: Vec<u8>,
}

impl Service for Answers {
    fn answer(&mut self, input: &[u8], output: &mut Vec<u8>) {
        if self.begun.is_empty() {
            let rest = answer_whole(input, output);
            self.begun.extend_from_slice(rest);
        } else {
            self.begun.extend_from_slice(input);
            let rest = answer_whole(&self.begun, output).len();
            self.begun.drain(..self.begun.len() - rest);
        }
    }
}

/// Answers the commands that are whole; what is left.
fn answer_whole<'a>(mut input: &'a [u8], output: &mut Vec<u8>) -> &'a [u8] {
    while let Some((name, rest)) = command(input) {
        output.extend_from_slice(match name {
            b"GET" | b"get" => b"$3\r\nxxx\r\n",
            b"SET" | b"set" => b"+OK\r\n",
            b"PING" | b"ping" => b"+PONG\r\n",
            _ => b"-ERR unknown command\r\n",
        });
        input = rest;
    }
    input
}

/// The name of the first command and what follows it, if the command is whole.
fn command(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (words, rest) = number(input, b'*')?;
    let (name, mut rest) = word(rest)?;
    for _ in 1..words {
        rest = word(rest)?.1;
    }
    Some((name, rest))
}

/// A word and what follows it.
fn word(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(input, b'$')?;
    let (word, rest) = rest.split_at_checked(length)?;
    Some((word, rest.get(2..)?))
}

/// A number behind `mark` with its line's end, and what follows it.
fn number(input: &[u8], mark: u8) -> Option<(usize, &[u8])> {
    let mut rest = input.strip_prefix(&[mark])?;
    let mut number = 0_usize;
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        number = number.checked_mul(10)?.checked_add(usize::from(digit - b'0'))?;
        rest = after;
    }
    Some((number, rest.strip_prefix(b"\r\n")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_come_in_pieces_are_answered_once() {
        let commands = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n*1\r\n$4\r\nPING\r\n";
        for cut in 0..commands.len() {
            for again in cut..commands.len() {
                let (mut answers, mut output) = (Answers::default(), Vec::new());
                for piece in [&commands[..cut], &commands[cut..again], &commands[again..]] {
                    answers.answer(piece, &mut output);
                }
                assert_eq!(output, b"$3\r\nxxx\r\n+OK\r\n+PONG\r\n", "cut at {cut} and {again}");
            }
        }
    }
}
