//! Endpoints that hand over buffers of a pool.

use core::ptr::NonNull;

use spinwire_dataplane::id::Name;
use spinwire_dataplane::msg::{Kind, Lender, RecvFrom, SendTo};
use spinwire_dataplane::pool::{NoHost, Pool, PoolGeometry, PoolSegment};
use spinwire_dataplane::provider::Provider;
use spinwire_dataplane::raw::line::lines_from_raw;
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::Identity;
use spinwire_dataplane::shm::lease::{self, Joiner};

use crate::bare::Arena;
use crate::service::{End, turn_until};

const POOL_BYTES: usize = 64 << 10;
static POOL: Arena<POOL_BYTES> = Arena::zeroed();
const BUFFER_BYTES: usize = 4096;

/// A thousand buffers there, every other one back. `None` where anything is not as it should be.
pub fn over<P: Provider>(
    client: &End<P>,
    server: &End<P>,
    (client_name, server_name): &(Name, Name),
    bump: &Bump<'static>,
) -> Option<()> {
    // SAFETY: the arena is static, one thread runs, and nothing else ever looks into it.
    let lines = unsafe { lines_from_raw(NonNull::new(POOL.base())?, POOL_BYTES) }?;
    let identity = Identity {
        name: Name::new("lent").ok()?,
        boot_id: [7; 16],
        created_unix_ns: 1,
        pid: 1,
        start_time: 1,
        page_bytes: 4096,
        pid_namespace: 0,
    };
    let geometry = PoolGeometry::new(2).class(4096, 8);
    let bytes = usize::try_from(geometry.segment_bytes().ok()?).ok()?;
    let lines = lines.get(..bytes / 64)?;
    let segment = PoolSegment::format(lines, &geometry, &identity).ok()?;
    let segment: &'static PoolSegment<'static> = bump.value(segment).ok()?;
    let open = || {
        let joiner = Joiner { pid: 1, start_time: 1, joined_unix_ns: 1, command: [0; 64] };
        let pool = Pool::open(segment, lease::join(segment, &joiner).ok()?, bump, &NoHost).ok()?;
        let pool: &'static Pool<'static> = bump.value(pool).ok()?;
        Lender::place(pool, bump, 4).ok()
    };
    let (there, back) = (open()?, open()?);
    let receives = LoanPool::place(bump, 4, 64).ok()?;
    let to_server = client.connect(server_name).ok()?;
    let to_client = server.connect(client_name).ok()?;
    for round in 0..1000_u64 {
        server.post_recv(RecvFrom::any().tag(3), receives.lend()?, round).ok()?;
        there.collect(client);
        let mut guard = there.pool().acquire(BUFFER_BYTES).ok()?;
        guard.copy_from(BUFFER_BYTES - 8, &round.to_le_bytes()).ok()?;
        client.send_loan(&there, SendTo::peer(to_server).tag(3), guard).ok()?;
        let mut came = turn_until(client, server, server)?;
        if (came.kind, came.context, came.tag) != (Kind::Parcel, round, Some(3)) {
            return None;
        }
        let guard = came.take_guard(back.pool()).ok()?;
        let mut number = [0; 8];
        guard.copy_to(BUFFER_BYTES - 8, &mut number).ok()?;
        if u64::from_le_bytes(number) != round {
            return None;
        }
        if round % 2 == 0 {
            continue;
        }
        client.post_recv(RecvFrom::peer(to_server), receives.lend()?, round).ok()?;
        back.collect(server);
        server.send_loan(&back, SendTo::peer(to_client), guard).ok()?;
        drop(turn_until(client, server, client)?.take_guard(there.pool()).ok()?);
    }
    client.flush();
    server.flush();
    there.collect(client);
    back.collect(server);
    let free: u32 = segment.stats().map(|class| class.free).sum();
    (there.under_way() == 0 && back.under_way() == 0 && free == 8).then_some(())
}
