//! Pools, and the texts of errors. Comments of public functions are those of the header.
#![allow(unsafe_code, reason = "names that a linker finds; no block, no pointer is followed here")]

use core::ffi::{c_char, c_int};
use core::time::Duration;
use std::sync::Arc;

use spinwire_dataplane::pool::PoolGeometry;
use spinwire_hostshim::mem::{PageKind, PagePolicy};
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolOpenError};
use spinwire_layouts::shm::Orphans;
use spinwire_layouts::shm::pool::CLASS_COUNT_MAX;

use crate::desk::{call, sit};
use crate::foreign::{self, Out};
use crate::opened::Opened;
use crate::process;
use crate::status::{Trouble, line};
use crate::types::{SW_ABI_VERSION, sw_class, sw_class_stats, sw_pool, sw_pool_options};

/// SW_ABI_VERSION of the library that was loaded. Where it is not that of the header, compile anew.
#[unsafe(no_mangle)]
pub const extern "C" fn sw_abi_version() -> u32 {
    SW_ABI_VERSION
}

/// One line for a status, never null. Static: not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn sw_strerror(status: c_int) -> *const c_char {
    line(status).as_ptr()
}

/// What the last call of this thread that failed has to say: the function, the field that is wrong, the remedy. Empty where
/// none has failed. Never null. It belongs to the library and holds until the thread calls sw_last_error() again.
#[unsafe(no_mangle)]
pub extern "C" fn sw_last_error() -> *const c_char {
    let text = std::panic::catch_unwind(|| sit(|desk| desk.last_text().as_ptr()));
    text.ok().flatten().filter(|text| !text.is_null()).unwrap_or_else(|| c"".as_ptr())
}

/// Makes a pool and opens it for this thread. `options` may be null for the default.
///
/// On SW_OK `*pool` is the caller's, to be closed by sw_pool_close(). SW_EXISTS where the name is taken, SW_ARGUMENT where name
/// or options cannot be, SW_SYSTEM. The promise is that of sw_pool_open().
#[unsafe(no_mangle)]
pub extern "C" fn sw_pool_create(
    name: *const c_char,
    options: *const sw_pool_options,
    pool: *mut sw_pool,
) -> c_int {
    call("sw_pool_create", |desk| {
        let (pool, name) = (Out::new("pool", pool)?, foreign::text("name", name)?);
        let config = config(options)?;
        pool.write(desk.open(open(BufferPool::create(&name, &config).map(process::made))?)?);
        Ok(())
    })
}

/// Opens a pool that is there, for this thread. Of `options`, which may be null, only `death_noticed_within_ms` counts, and
/// `small_pages` for buffers with segments of their own.
///
/// On SW_OK `*pool` is the caller's, to be closed by sw_pool_close(). SW_MISSING, SW_UNUSABLE, SW_NO_SLOT, SW_SYSTEM.
///
/// The promise: who opens a pool touches the bytes of a buffer through what sw_data() and sw_data_mut() gave, while the buffer
/// is in hand, and through nothing else. A program that breaks it spoils what others read. A pool is for processes of one
/// user that trust each other that far; its metadata are checked all the same, and nothing that stands there crashes a reader.
///
/// Each thread that uses the pool opens it, and takes one of its handles. The first open of a process maps the pool and starts a
/// thread of the library, which sleeps until a process of the pool dies; the options of that one count, and later opens share
/// both. A thread that ends gives back what it has in hand and closes its pools; of a process that dies, the others take it back.
#[unsafe(no_mangle)]
pub extern "C" fn sw_pool_open(
    name: *const c_char,
    options: *const sw_pool_options,
    pool: *mut sw_pool,
) -> c_int {
    call("sw_pool_open", |desk| {
        let (pool, name) = (Out::new("pool", pool)?, foreign::text("name", name)?);
        let config = config(options)?;
        let shared = process::share(&name, || BufferPool::open(&name, &config));
        pool.write(desk.open(open(shared)?)?);
        Ok(())
    })
}

/// As sw_pool_open(), or as sw_pool_create() where there is no pool of that name.
#[unsafe(no_mangle)]
pub extern "C" fn sw_pool_open_or_create(
    name: *const c_char,
    options: *const sw_pool_options,
    pool: *mut sw_pool,
) -> c_int {
    call("sw_pool_open_or_create", |desk| {
        let (pool, name) = (Out::new("pool", pool)?, foreign::text("name", name)?);
        let config = config(options)?;
        let shared = process::share(&name, || BufferPool::open_or_create(&name, &config));
        pool.write(desk.open(open(shared)?)?);
        Ok(())
    })
}

/// Closes it: the handle is none any more, and what sw_data() gave points nowhere. The pool itself stays, and so does what is
/// detached, unless the pool was made with `release_orphans`: then what this handle detached last goes with it. SW_IN_USE while
/// buffers of it are in hand: nothing has changed then. The last close of a process waits for the library's thread, some
/// milliseconds.
#[unsafe(no_mangle)]
pub extern "C" fn sw_pool_close(pool: sw_pool) -> c_int {
    call("sw_pool_close", |desk| desk.close(pool))
}

/// Removes the name, so that nobody can open it any more. Who has the pool open keeps it, this thread included; but buffers with
/// segments of their own that a process has not used before are SW_NOT_MAPPED to it from then on: see sw_pool_map_large().
#[unsafe(no_mangle)]
pub extern "C" fn sw_pool_unlink(pool: sw_pool) -> c_int {
    call("sw_pool_unlink", |desk| Ok(desk.pool(pool)?.pool().unlink()?))
}

/// Makes and maps every buffer that has a segment of its own now, so that none has to be when it is first used. SW_NOT_MAPPED,
/// where sw_last_error() says what is lacking.
#[unsafe(no_mangle)]
pub extern "C" fn sw_pool_map_large(pool: sw_pool) -> c_int {
    call("sw_pool_map_large", |desk| Ok(desk.pool(pool)?.pool().map_large()?))
}

/// Counts the buffers of each size, smallest first: a walk over all of them.
///
/// `stats` is an array of `room` of them, the caller's; `*count` gets how many sizes there are, which may be more. Null with a
/// `room` of 0 asks for the number alone.
#[unsafe(no_mangle)]
pub extern "C" fn sw_pool_stats(
    pool: sw_pool,
    stats: *mut sw_class_stats,
    room: usize,
    count: *mut usize,
) -> c_int {
    call("sw_pool_stats", |desk| {
        let count = Out::new("count", count)?;
        let all: Vec<sw_class_stats> = desk
            .pool(pool)?
            .pool()
            .stats()
            .iter()
            .map(|class| sw_class_stats {
                buffer_bytes: class.slot_bytes,
                buffer_count: class.slots,
                free: class.free,
                written: class.written,
                shared: class.shared,
                detached: class.detached,
                reserved: 0,
                references: class.references,
                used_bytes: class.used_bytes,
            })
            .collect();
        foreign::write_all("stats", stats, room, &all)?;
        count.write(all.len());
        Ok(())
    })
}

/// Takes back now what dead processes held, without waiting until one of the others notices. `freed`, which may be null, gets
/// how many buffers came free by it.
#[unsafe(no_mangle)]
pub extern "C" fn sw_pool_reclaim(pool: sw_pool, freed: *mut u32) -> c_int {
    call("sw_pool_reclaim", |desk| {
        let freed = if freed.is_null() { None } else { Some(Out::new("freed", freed)?) };
        let done = desk.pool(pool)?.pool().reclaim();
        if let Some(freed) = freed {
            freed.write(done.freed);
        }
        Ok(())
    })
}

/// Fields of the geometry, as the header has them.
const NAMES: &[(&str, &str)] = &[
    ("process_count", "options.handle_count"),
    ("class_count", "options.class_count"),
    ("slot_bytes", "options.classes[].buffer_bytes"),
    ("slot_count", "options.classes[].buffer_count, and their sum"),
    ("segment_bytes", "options.classes, the bytes of all together"),
];

fn open(pool: Result<Arc<BufferPool>, PoolOpenError>) -> Result<Opened, Trouble> {
    Opened::new(pool.map_err(|error| error.renamed(NAMES))?)
}

fn config(options: *const sw_pool_options) -> Result<PoolConfig, Trouble> {
    let mut config = PoolConfig::default();
    if options.is_null() {
        return Ok(config);
    }
    let given = foreign::read("options", options)?;
    let flag = |name, value| match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Trouble::argument(name, "it is neither 0 nor 1")),
    };
    let processes = match given.handle_count {
        0 => config.geometry.process_count(),
        count => count,
    };
    let mut geometry = PoolGeometry::new(processes);
    if given.classes.is_null() && given.class_count == 0 {
        let usual = config.geometry;
        for class in usual.classes() {
            geometry = geometry.class(class.slot_bytes, class.slot_count);
        }
    }
    let classes: Vec<sw_class> =
        foreign::read_all("options.classes", given.classes, given.class_count, CLASS_COUNT_MAX)?;
    for class in classes {
        geometry = if flag("options.classes[].own_segment", class.own_segment)? {
            geometry.large_class(class.buffer_bytes, class.buffer_count)
        } else {
            geometry.class(class.buffer_bytes, class.buffer_count)
        };
    }
    if flag("options.release_orphans", given.release_orphans)? {
        geometry = geometry.orphans(Orphans::Release);
    }
    config.geometry = geometry;
    if flag("options.small_pages", given.small_pages)? {
        config.pages = PagePolicy::Only(PageKind::Base4K);
    }
    if given.death_noticed_within_ms > 0 {
        config.death_noticed_within = Duration::from_millis(given.death_noticed_within_ms.into());
    }
    Ok(config)
}
