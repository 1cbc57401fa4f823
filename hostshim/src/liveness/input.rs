//! Whether whoever holds the other end of a pipe or a socket has ended, without a thread that waits for it.

use std::io::{self, Read};
use std::os::fd::AsFd;

use crate::raw::syscall::{self, Readable};

/// Whether nobody writes to `input` any more. What is there to be read is read, up to 512 bytes, and dropped. Never waits.
///
/// poll(2), and read(2) where there is something.
///
/// # Errors
/// What the kernel says of either.
pub fn has_ended(input: &mut (impl Read + AsFd)) -> io::Result<bool> {
    let mut watched = [Readable::new(input.as_fd())];
    syscall::poll(&mut watched, 0).map_err(|e| io::Error::from_raw_os_error(e.number()))?;
    let [seen] = watched;
    if seen.is_ready() {
        return Ok(input.read(&mut [0; 512])? == 0);
    }
    Ok(seen.is_hung_up() || seen.is_void())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_pipe_ends_with_its_last_writer_and_not_before() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        assert!(!has_ended(&mut reader).unwrap());
        let other = writer.try_clone().unwrap();
        writer.write_all(&[7; 700]).unwrap();
        drop(writer);
        assert!(!has_ended(&mut reader).unwrap(), "512 bytes are dropped");
        drop(other);
        assert!(!has_ended(&mut reader).unwrap(), "the rest of them");
        assert!(has_ended(&mut reader).unwrap());
        assert!(has_ended(&mut reader).unwrap(), "for good");
    }

    #[test]
    fn sockets_and_files_end_too() {
        let (mut near, far) = UnixStream::pair().unwrap();
        assert!(!has_ended(&mut near).unwrap());
        drop(far);
        assert!(has_ended(&mut near).unwrap());
        assert!(has_ended(&mut File::open("/dev/null").unwrap()).unwrap());
        assert!(!has_ended(&mut File::open("/dev/zero").unwrap()).unwrap());
    }
}
