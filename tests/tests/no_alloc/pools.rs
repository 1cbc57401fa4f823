//! Two handles of one thread on one pool, and a round of everything that is done with buffers.

use spinwire_dataplane::error::Retry;
use spinwire_dataplane::pool::{Description, PoolError, PoolGeometry, Shape};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolHandle};
use spinwire_layouts::shm::{BufferId, DType};

const BUFFERS: usize = 8;
const LARGE_BYTES: usize = 1 << 20;

/// Both handles.
pub(crate) struct Pools<'d> {
    a: PoolHandle<'d>,
    b: PoolHandle<'d>,
    description: Description,
}

/// Runs `work` with a fresh pool, whose large buffers are mapped.
pub(crate) fn with<R>(work: impl FnOnce(&Pools<'_>) -> R) -> R {
    let name = format!("no-alloc-pool-{}", std::process::id());
    let geometry = PoolGeometry::new(4)
        .class(4096, u32::try_from(BUFFERS).expect("a small number"))
        .large_class(u64::try_from(LARGE_BYTES).expect("a small number"), 2);
    let config = PoolConfig { geometry, ..PoolConfig::default() };
    let pool = BufferPool::create(&name, &config).expect("a pool");
    pool.map_large().expect("large buffers");
    let mut memory = Plane::memory(1 << 20).expect("memory");
    let bump = Plane::arena(&mut memory);
    let handle = || pool.handle(&bump).expect("a handle");
    let shape = Shape::contiguous(DType::U8, &[16, 4]).expect("a shape");
    let description = Description::new(DType::U8, shape);
    let result = work(&Pools { a: handle(), b: handle(), description });
    pool.unlink().expect("its own name");
    result
}

impl Pools<'_> {
    /// So many rounds; the number of those in which everything was as it should be.
    pub(crate) fn run(&self, rounds: u64) -> u64 {
        (0..rounds).map(|round| u64::from(self.round(round).is_ok_and(|good| good))).sum()
    }

    fn round(&self, round: u64) -> Result<bool, PoolError> {
        let Self { a, b, description } = self;
        // Written, described, published, read by the other, and freed by it.
        let mut guard = a.acquire(64)?;
        guard.describe(description)?;
        guard.copy_from(0, &round.to_le_bytes())?;
        let shared = guard.publish()?;
        let read = b.get(shared.id())?;
        let mut bytes = [0; 8];
        read.copy_to(0, &mut bytes)?;
        let mut good =
            u64::from_le_bytes(bytes) == round && read.description()?.shape == description.shape;
        drop(shared);
        drop(read);
        // Handed over by its id, counted, taken back for writing.
        let id = a.acquire(100)?.detach().map_err(PoolError::from)?;
        good &= b.add_ref(id)? == 2 && b.release(id)? == 1;
        let owned = b.adopt_mut(id)?;
        good &= a.get(id).is_err_and(|e| e == PoolError::Busy);
        drop(owned);
        good &= a.get(id).is_err_and(|e| e == PoolError::Stale);
        // Waited for where there is one, and refused where there is none.
        drop(a.acquire_until(1, None)?);
        let mut ids = [BufferId::NONE; BUFFERS];
        a.preallocate(1, &mut ids)?;
        good &= b.acquire(1).is_err_and(|e| e == PoolError::Retry(Retry::PoolFull));
        for id in ids {
            good &= b.release(id)? == 0;
        }
        // A segment of its own.
        let mut large = a.acquire(LARGE_BYTES)?;
        large.copy_from(LARGE_BYTES - 8, &round.to_le_bytes())?;
        let id = large.detach().map_err(PoolError::from)?;
        b.adopt(id)?.copy_to(LARGE_BYTES - 8, &mut bytes)?;
        Ok(good && u64::from_le_bytes(bytes) == round && a.ref_count(id).is_err())
    }
}
