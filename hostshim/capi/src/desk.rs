//! The desk of one thread: its open pools, its guards, its last error.
//!
//! ```text
//!   sw_xyz(..) -> call("sw_xyz", |desk| ..)   one borrow of the thread's desk; a panic ends here
//!                    desk.buffers  handle -> Held { pool, guard }
//!                    desk.pools    handle -> Opened, and how many guards there are of it
//! ```
//!
//! Invariants: (1) guards go before the handle that they borrow, and that before its arena and its pool: a pool with guards is
//! not closed, and the end of a thread ends guards first; (2) in the child of a fork nothing is released, because all of it is
//! the parent's.

use core::cell::RefCell;
use core::ffi::c_int;
use core::mem;
use core::panic::AssertUnwindSafe;
use std::ffi::CString;
use std::panic::catch_unwind;

use spinwire_dataplane::pool::AnyGuard;
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_hostshim::pool::{PoolFiles, PoolHandle};

use crate::foreign;
use crate::handle::Table;
use crate::opened::Opened;
use crate::status::{Status, Trouble};
use crate::types::{sw_buffer, sw_pool};

/// A guard of this thread.
pub(crate) type Hand = AnyGuard<'static, PoolFiles>;

#[derive(Debug)]
struct Row {
    opened: Opened,
    /// Guards of it at the desk.
    held: u32,
}

#[derive(Debug)]
struct Held {
    pool: u64,
    guard: Hand,
}

/// What one thread has.
#[derive(Debug)]
pub(crate) struct Desk {
    forks: u64,
    buffers: Table<Held>,
    pools: Table<Row>,
    last: Option<(&'static str, Trouble)>,
    text: CString,
}

impl Desk {
    fn new(parent: u16) -> Self {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        // 1 to 65,535, and from the start again.
        let number = THREADS.fetch_add(1, Ordering::Relaxed) % u64::from(u16::MAX);
        let thread = u16::try_from(number + 1).unwrap_or(1);
        Self {
            forks: foreign::forks(),
            buffers: Table::new(thread, parent),
            pools: Table::new(thread, parent),
            last: None,
            text: CString::default(),
        }
    }

    fn row(&self, pool: sw_pool) -> Result<&Row, Trouble> {
        self.pools.get(pool.handle).map_err(|wrong| Trouble::handle("pool", wrong))
    }

    pub(crate) fn pool(&self, pool: sw_pool) -> Result<&Opened, Trouble> {
        self.row(pool).map(|row| &row.opened)
    }

    pub(crate) fn open(&mut self, opened: Opened) -> Result<sw_pool, Trouble> {
        self.buffers.reserve(64);
        let full = || Trouble::argument("pool", "this thread has a million of them open");
        self.pools.insert(Row { opened, held: 0 }).map(|handle| sw_pool { handle }).ok_or_else(full)
    }

    pub(crate) fn close(&mut self, pool: sw_pool) -> Result<(), Trouble> {
        let held = self.row(pool)?.held;
        if held > 0 {
            let text = format!("pool: {held} of its buffers are in hand; release them first");
            return Err(Trouble::told(Status::SW_IN_USE, text));
        }
        self.pools.remove(pool.handle).map(drop).map_err(|wrong| Trouble::handle("pool", wrong))
    }

    /// Takes a buffer of the pool into hand.
    pub(crate) fn take(
        &mut self,
        pool: sw_pool,
        take: impl FnOnce(&'static PoolHandle<'static>) -> Result<Hand, Trouble>,
    ) -> Result<sw_buffer, Trouble> {
        let opened = self.pool(pool)?;
        let guard = take(opened.handle()).map_err(|trouble| trouble.explained(opened.pool()))?;
        let held = Held { pool: pool.handle, guard };
        let full = || Trouble::argument("buffer", "this thread has a million of them in hand");
        let buffer = self.buffers.insert(held).ok_or_else(full)?;
        if let Ok(row) = self.pools.get_mut(pool.handle) {
            row.held += 1;
        }
        Ok(sw_buffer { handle: buffer })
    }

    pub(crate) fn buffer(&mut self, buffer: sw_buffer) -> Result<&mut Hand, Trouble> {
        let held = self.buffers.get_mut(buffer.handle);
        held.map(|held| &mut held.guard).map_err(|wrong| Trouble::handle("buffer", wrong))
    }

    /// Takes a buffer out of hand: what is returned lets go of it.
    pub(crate) fn let_go(&mut self, buffer: sw_buffer) -> Result<Hand, Trouble> {
        let held = self.buffers.remove(buffer.handle);
        let Held { pool, guard } = held.map_err(|wrong| Trouble::handle("buffer", wrong))?;
        if let Ok(row) = self.pools.get_mut(pool) {
            row.held -= 1;
        }
        Ok(guard)
    }

    fn refuse(&mut self, function: &'static str, trouble: Trouble) -> Status {
        let status = trouble.status;
        self.last = Some((function, trouble));
        status
    }

    fn is_the_parents(&self) -> bool {
        self.forks != foreign::forks()
    }

    /// In the child of a fork: a desk of its own. The old one knows what not to do when it is dropped.
    fn turn_child(&mut self) {
        if self.is_the_parents() {
            *self = Self::new(self.buffers.thread());
        }
    }

    /// The text of the last failure, made now.
    pub(crate) fn last_text(&mut self) -> &CString {
        if let Some((function, trouble)) = self.last.take() {
            let text = format!("{function}: {}", trouble.text());
            self.text = CString::new(text).unwrap_or_default();
        }
        &self.text
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if self.is_the_parents() {
            self.buffers.drain().for_each(mem::forget);
            self.pools.drain().for_each(mem::forget);
            return;
        }
        // Guards first; what is left of the fields is empty then. A panic here would end the process: the thread is at its end.
        let all = AssertUnwindSafe(|| {
            self.buffers.drain().for_each(drop);
            self.pools.drain().for_each(drop);
        });
        let _left_to_the_watchers_then = catch_unwind(all);
    }
}

thread_local! {
    static DESK: RefCell<Option<Desk>> = const { RefCell::new(None) };
}

/// Runs `work` at the desk of this thread; `None` where the thread is at its end, or a signal handler has come in between.
pub(crate) fn sit<T>(work: impl FnOnce(&mut Desk) -> T) -> Option<T> {
    let sat = DESK.try_with(|desk| {
        let mut desk = desk.try_borrow_mut().ok()?;
        let desk = desk.get_or_insert_with(|| Desk::new(0));
        desk.turn_child();
        Some(work(desk))
    });
    sat.ok().flatten()
}

/// Runs one function of the library.
pub(crate) fn call(
    name: &'static str,
    work: impl FnOnce(&mut Desk) -> Result<(), Trouble>,
) -> c_int {
    let all = AssertUnwindSafe(|| {
        sit(|desk| match foreign::watch_forks().and_then(|()| work(desk)) {
            Ok(()) => Status::SW_OK,
            Err(trouble) => desk.refuse(name, trouble),
        })
    });
    let status = catch_unwind(all).unwrap_or_else(|_panic| {
        let text = "a panic in the library, which should not be; please report it".to_owned();
        sit(|desk| desk.refuse(name, Trouble::told(Status::SW_INTERNAL, text)))
    });
    status.unwrap_or(Status::SW_THREAD).code()
}
