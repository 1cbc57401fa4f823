//! Buffers in hand, and ids. Comments of public functions are those of the header.
#![allow(unsafe_code, reason = "names that a linker finds; no block, no pointer is followed here")]

use core::ffi::{c_int, c_void};
use core::time::Duration;

use spinwire_dataplane::error::Retry;
use spinwire_dataplane::pool::{AnyGuard, ExclusiveGuard, PoolError};
use spinwire_hostshim::pool::{BufferPool, PoolFiles};
use spinwire_layouts::shm::BufferId;

use crate::desk::{Hand, call};
use crate::foreign::Out;
use crate::types::{sw_buffer, sw_pool};

/// Takes a free buffer of at least `bytes` bytes, to write; its length is `bytes`. What its last user wrote is still in it.
///
/// `timeout_ns` says how long to wait for one where none is free: 0 not at all, less than 0 for ever. On SW_OK `*buffer` is in
/// the caller's hand, and nobody else can write or read it, until sw_publish(), sw_detach() or sw_release(). SW_FULL,
/// SW_TOO_LARGE, SW_NOT_MAPPED, SW_FENCED.
#[unsafe(no_mangle)]
pub extern "C" fn sw_acquire(
    pool: sw_pool,
    bytes: usize,
    timeout_ns: i64,
    buffer: *mut sw_buffer,
) -> c_int {
    call("sw_acquire", |desk| {
        let buffer = Out::new("buffer", buffer)?;
        buffer.write(desk.take(pool, |handle| {
            let full = match handle.acquire(bytes) {
                Err(full @ PoolError::Retry(Retry::PoolFull)) => full,
                done => return Ok(AnyGuard::Exclusive(done?)),
            };
            if timeout_ns == 0 {
                return Err(full.into());
            }
            let span = u64::try_from(timeout_ns).map(Duration::from_nanos);
            let until = span.ok().map(BufferPool::deadline);
            Ok(AnyGuard::Exclusive(handle.acquire_until(bytes, until)?))
        })?);
        Ok(())
    })
}

/// Takes the buffer of an id, to read, with others. The reference by which the id was known stays.
///
/// On SW_OK `*buffer` is in the caller's hand until sw_release() or sw_detach(). SW_BUSY while somebody writes it, SW_STALE,
/// SW_FOREIGN.
#[unsafe(no_mangle)]
pub extern "C" fn sw_get(pool: sw_pool, id: u64, buffer: *mut sw_buffer) -> c_int {
    call("sw_get", |desk| {
        let (buffer, id) = (Out::new("buffer", buffer)?, BufferId::from_raw(id));
        buffer.write(desk.take(pool, |handle| Ok(AnyGuard::Shared(handle.get(id)?)))?);
        Ok(())
    })
}

/// Takes the buffer of an id, to write, alone. Nobody may have it in hand: SW_BUSY else, also where this thread itself has.
/// Otherwise as sw_get().
#[unsafe(no_mangle)]
pub extern "C" fn sw_get_mut(pool: sw_pool, id: u64, buffer: *mut sw_buffer) -> c_int {
    call("sw_get_mut", |desk| {
        let (buffer, id) = (Out::new("buffer", buffer)?, BufferId::from_raw(id));
        buffer.write(desk.take(pool, |handle| Ok(AnyGuard::Exclusive(handle.get_mut(id)?)))?);
        Ok(())
    })
}

/// As sw_get(), in place of one detached reference: what one side detached, the other adopts. SW_NO_REFERENCE where none is.
#[unsafe(no_mangle)]
pub extern "C" fn sw_adopt(pool: sw_pool, id: u64, buffer: *mut sw_buffer) -> c_int {
    call("sw_adopt", |desk| {
        let (buffer, id) = (Out::new("buffer", buffer)?, BufferId::from_raw(id));
        buffer.write(desk.take(pool, |handle| Ok(AnyGuard::Shared(handle.adopt(id)?)))?);
        Ok(())
    })
}

/// As sw_get_mut(), in place of one detached reference.
#[unsafe(no_mangle)]
pub extern "C" fn sw_adopt_mut(pool: sw_pool, id: u64, buffer: *mut sw_buffer) -> c_int {
    call("sw_adopt_mut", |desk| {
        let (buffer, id) = (Out::new("buffer", buffer)?, BufferId::from_raw(id));
        buffer.write(desk.take(pool, |handle| Ok(AnyGuard::Exclusive(handle.adopt_mut(id)?)))?);
        Ok(())
    })
}

/// Lets others read what the caller has written, and keeps it in hand, to read: the handle is the same, what sw_data_mut()
/// gave must not be written any more. SW_READ_ONLY where it is taken to read already. SW_FENCED: the buffer is lost, and the
/// handle is none any more.
#[unsafe(no_mangle)]
pub extern "C" fn sw_publish(buffer: sw_buffer) -> c_int {
    call("sw_publish", |desk| {
        let hand = desk.buffer(buffer)?;
        match core::mem::replace(hand, AnyGuard::Forgotten) {
            AnyGuard::Exclusive(guard) => match guard.publish() {
                Ok(guard) => *hand = AnyGuard::Shared(guard),
                Err(lost) => {
                    drop(desk.let_go(buffer)?);
                    return Err(lost.into());
                }
            },
            other @ (AnyGuard::Shared(_) | AnyGuard::Forgotten) => {
                *hand = other;
                return Err(PoolError::ReadOnly.into());
            }
        }
        Ok(())
    })
}

/// Gives up the handle and leaves its reference behind, for whoever is told `*id`: by sw_adopt(), or sw_id_release(). What
/// was written is published by it.
///
/// On SW_OK the handle is none any more. Else it is as before: SW_TOO_MANY_REFERENCES, SW_FENCED. An id that reaches nobody
/// keeps its buffer for as long as the pool exists.
#[unsafe(no_mangle)]
pub extern "C" fn sw_detach(buffer: sw_buffer, id: *mut u64) -> c_int {
    call("sw_detach", |desk| {
        let id = Out::new("id", id)?;
        let detached = desk.buffer(buffer)?.forget()?;
        drop(desk.let_go(buffer)?);
        id.write(detached.as_raw());
        Ok(())
    })
}

/// Lets go of a buffer: the handle is none any more, what sw_data() gave must not be touched, and where this was the last
/// reference the buffer is free. SW_HANDLE where it was released or detached before: nothing happens then, also where the
/// buffer has another user now.
#[unsafe(no_mangle)]
pub extern "C" fn sw_release(buffer: sw_buffer) -> c_int {
    call("sw_release", |desk| {
        drop(desk.let_go(buffer)?);
        Ok(())
    })
}

/// The bytes of a buffer in hand, to read: `*data` is aligned to 64 bytes, and good until the handle ends. `bytes`, which may
/// be null, gets how many are in use.
#[unsafe(no_mangle)]
pub extern "C" fn sw_data(buffer: sw_buffer, data: *mut *const c_void, bytes: *mut usize) -> c_int {
    call("sw_data", |desk| {
        let data = Out::new("data", data)?;
        let bytes = if bytes.is_null() { None } else { Some(Out::new("bytes", bytes)?) };
        let slice = desk.buffer(buffer)?.as_slice::<u8>()?;
        data.write(slice.as_ptr().cast());
        if let Some(bytes) = bytes {
            bytes.write(slice.len());
        }
        Ok(())
    })
}

/// The bytes of a buffer in hand, to write: as sw_data(). Good until sw_publish(), too. SW_READ_ONLY where the buffer was taken
/// to read.
#[unsafe(no_mangle)]
pub extern "C" fn sw_data_mut(
    buffer: sw_buffer,
    data: *mut *mut c_void,
    bytes: *mut usize,
) -> c_int {
    call("sw_data_mut", |desk| {
        let data = Out::new("data", data)?;
        let bytes = if bytes.is_null() { None } else { Some(Out::new("bytes", bytes)?) };
        let slice = desk.buffer(buffer)?.as_mut_slice::<u8>()?;
        data.write(slice.as_mut_ptr().cast());
        if let Some(bytes) = bytes {
            bytes.write(slice.len());
        }
        Ok(())
    })
}

/// The id by which others find the buffer, for as long as it has references.
#[unsafe(no_mangle)]
pub extern "C" fn sw_id(buffer: sw_buffer, id: *mut u64) -> c_int {
    call("sw_id", |desk| {
        let id = Out::new("id", id)?;
        id.write(desk.buffer(buffer)?.id()?.as_raw());
        Ok(())
    })
}

/// How many bytes the buffer can hold: at least what was asked for.
#[unsafe(no_mangle)]
pub extern "C" fn sw_capacity(buffer: sw_buffer, bytes: *mut usize) -> c_int {
    call("sw_capacity", |desk| {
        let bytes = Out::new("bytes", bytes)?;
        bytes.write(match desk.buffer(buffer)? {
            AnyGuard::Exclusive(guard) => guard.capacity(),
            AnyGuard::Shared(guard) => guard.capacity(),
            AnyGuard::Forgotten => return Err(PoolError::AlreadyForgotten.into()),
        });
        Ok(())
    })
}

/// Says how many bytes are in use. SW_OUT_OF_RANGE where the buffer has fewer, SW_READ_ONLY.
#[unsafe(no_mangle)]
pub extern "C" fn sw_set_length(buffer: sw_buffer, bytes: usize) -> c_int {
    call("sw_set_length", |desk| Ok(exclusive(desk.buffer(buffer)?)?.set_len(bytes)?))
}

/// Sets how many references a buffer that is taken to write has, the caller's included: 1 to 32. The others are detached: each
/// of those who are told the id has one to adopt or to release.
#[unsafe(no_mangle)]
pub extern "C" fn sw_set_ref_count(buffer: sw_buffer, count: u32) -> c_int {
    call("sw_set_ref_count", |desk| Ok(exclusive(desk.buffer(buffer)?)?.set_ref_count(count)?))
}

/// One detached reference more, for somebody else to adopt or release. `count`, which may be null, gets how many references
/// there are then. SW_STALE, SW_FOREIGN, SW_TOO_MANY_REFERENCES.
#[unsafe(no_mangle)]
pub extern "C" fn sw_id_add_ref(pool: sw_pool, id: u64, count: *mut u32) -> c_int {
    call("sw_id_add_ref", |desk| {
        let count = if count.is_null() { None } else { Some(Out::new("count", count)?) };
        let now = desk.pool(pool)?.handle().add_ref(BufferId::from_raw(id))?;
        if let Some(count) = count {
            count.write(now);
        }
        Ok(())
    })
}

/// One detached reference less; the last reference frees the buffer. `count`, which may be null, gets how many there are then.
/// SW_NO_REFERENCE where none is detached: those in hand end by sw_release() only.
#[unsafe(no_mangle)]
pub extern "C" fn sw_id_release(pool: sw_pool, id: u64, count: *mut u32) -> c_int {
    call("sw_id_release", |desk| {
        let count = if count.is_null() { None } else { Some(Out::new("count", count)?) };
        let now = desk.pool(pool)?.handle().release(BufferId::from_raw(id))?;
        if let Some(count) = count {
            count.write(now);
        }
        Ok(())
    })
}

/// How many references the buffer of an id has: one for each thread that has it in hand, and the detached ones.
#[unsafe(no_mangle)]
pub extern "C" fn sw_id_ref_count(pool: sw_pool, id: u64, count: *mut u32) -> c_int {
    call("sw_id_ref_count", |desk| {
        let count = Out::new("count", count)?;
        count.write(desk.pool(pool)?.handle().ref_count(BufferId::from_raw(id))?);
        Ok(())
    })
}

/// The guard, if it is one for writing.
pub(crate) const fn exclusive(
    hand: &mut Hand,
) -> Result<&mut ExclusiveGuard<'static, PoolFiles>, PoolError> {
    match hand {
        AnyGuard::Exclusive(guard) => Ok(guard),
        AnyGuard::Shared(_) => Err(PoolError::ReadOnly),
        AnyGuard::Forgotten => Err(PoolError::AlreadyForgotten),
    }
}
