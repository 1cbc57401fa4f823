//! The serving end: makes the domain, does its half of whatever is ordered, ends with its client.

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::Addr;
use spinwire_dataplane::msg::Kind;
use spinwire_dataplane::provider::{Provider, RemotePlace};
use spinwire_dataplane::shm::Geometry;
use spinwire_hostshim::affinity;
use spinwire_hostshim::domain::{Domain, DomainConfig};
#[cfg(feature = "mlx5")]
use spinwire_hostshim::mlx5;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::BufferPool;
#[cfg(feature = "verbs")]
use spinwire_hostshim::verbs;

use super::datagrams;
use super::ending::{self, Input};
use super::floor::{ServerFloor, Witness};
use super::loans::{self, Loans};
use super::network;
use super::one_sided;
use super::options::{PairOptions, ProviderName};
use super::order::{Marking, Order};
use super::station::{self, DataUse, Deadline, Patience, Role, Station, data_to};
use crate::pattern;
use crate::report::{Failure, Verdict};

/// What is said of a client that stopped in the middle.
const GONE_QUIET: &str = "the client has stopped";
/// The name of the serving endpoint.
pub(crate) const SERVER: &str = "server";
/// Streams are received into buffers of at least so many bytes, many messages to a buffer.
pub(crate) const STREAM_BUFFER_BYTES: usize = 16 << 10;

/// A segment for two, with lanes that carry messages of up to `size` bytes.
fn geometry(size: usize) -> Geometry {
    let spill = size.saturating_mul(2).next_power_of_two().max(128 << 10);
    Geometry {
        process_count: 8,
        endpoint_count: 8,
        lane_count: 4,
        lane_cell_count: 256,
        lane_spill_bytes: u32::try_from(spill).unwrap_or(u32::MAX),
    }
}

/// Serves one client under `name`, then removes the segment.
pub(crate) fn serve(
    (command, name): (&str, &str),
    options: &PairOptions,
) -> Result<Verdict, Failure> {
    options.check()?;
    match options.provider() {
        ProviderName::Tcp => return network::serve((command, name), options),
        ProviderName::Udp => return datagrams::serve((command, name), options),
        #[cfg(feature = "verbs")]
        ProviderName::Verbs => {
            return super::verbs::serve::<verbs::Library>((command, name), options);
        }
        #[cfg(feature = "mlx5")]
        ProviderName::Mlx5 => return super::verbs::serve::<mlx5::Direct>((command, name), options),
        #[cfg(feature = "libfabric")]
        ProviderName::Ofi => return super::ofi::serve((command, name), options),
        // The check has refused what is not in this build.
        #[cfg(not(feature = "verbs"))]
        ProviderName::Verbs => {}
        #[cfg(not(feature = "mlx5"))]
        ProviderName::Mlx5 => {}
        #[cfg(not(feature = "libfabric"))]
        ProviderName::Ofi => {}
        ProviderName::Shm => {}
    }
    ending::takes_names_along(name)?;
    let (_, cpu) = options.placement()?;
    let size = options.sizes().into_iter().max().unwrap_or(64).max(64 << 10);
    let config = DomainConfig { geometry: geometry(size), ..DomainConfig::default() };
    // The pool first: who finds the domain finds the pool.
    let largest = options.sizes().into_iter().max().unwrap_or(64);
    let pool = options.zero_copy.then(|| loans::make(name, largest)).transpose()?;
    let domain = Domain::create(name, &config);
    let served = domain.map_err(Failure::from).and_then(|domain| {
        network::say_listening(command, name, options)?;
        let served = serve_in(&domain, (cpu, size), options, pool.as_ref());
        domain.unlink()?;
        served
    });
    if let Some(pool) = pool {
        pool.unlink()?;
    }
    served
}

fn serve_in(
    domain: &Domain,
    (cpu, size): (u32, usize),
    options: &PairOptions,
    pool: Option<&BufferPool>,
) -> Result<Verdict, Failure> {
    let yields = options.shares_cpu()?;
    let input = Input::of(options);
    let buffer_bytes = size.max(STREAM_BUFFER_BYTES);
    let role = Role { name: SERVER, buffer_bytes, yields, input };
    let mut memory = Plane::memory(station::arena_bytes(&role))?;
    let bump = Plane::arena(&mut memory);
    affinity::pin(cpu)?;
    let handle = pool.map(|pool| pool.handle(&bump)).transpose()?;
    let loans = handle.as_ref().map(|handle| Loans::place(handle, &bump)).transpose()?;
    let station = Station::open(domain, &bump, &role)?;
    obey(&station, loans.as_ref(), size)
}

/// Does what is ordered until that was all.
pub(crate) fn obey<P: Provider, F: ServerFloor>(
    station: &Station<'_, P, F>,
    loans: Option<&Loans<'_>>,
    size: usize,
) -> Result<Verdict, Failure> {
    let lending = || loans.ok_or("the client wants --zero-copy, which was not said here");
    let mut block = vec![0; size];
    let mut patience = Patience::Unlimited;
    loop {
        let (client, order) = station.next_order(patience)?;
        patience = Patience::Limited;
        match order {
            Order::Floor { count, size } => {
                let_begin(station, client)?;
                station.floor.answer(count, usize::try_from(size)?)?;
            }
            Order::CopyOut { count, size } => {
                let bytes = usize::try_from(size).ok().and_then(|size| block.get_mut(..size));
                let bytes = bytes.ok_or("the client wants larger blocks than --size says here")?;
                let_begin(station, client)?;
                station.floor.copy_out(bytes, count)?;
            }
            Order::Echo { count, marking, .. } => {
                station.post_all_data(marking, DataUse::OneMessage)?;
                station.send_order(client, Order::Done { value: 0 })?;
                echo(station, client, count, marking)?;
            }
            Order::Drain { count, size, marking } => {
                let use_for = stream_use(station, size);
                station.post_all_data(marking, use_for)?;
                station.send_order(client, Order::Done { value: 0 })?;
                let bad = drain(station, (count, size), marking, use_for)?;
                station.send_order(client, Order::Done { value: bad })?;
            }
            Order::EchoLoans { count, size, marking } => {
                let loans = lending()?;
                station.post_all_data(marking, DataUse::OneMessage)?;
                station.send_order(client, Order::Done { value: 0 })?;
                echo_loans(station, loans, client, (count, size, marking))?;
            }
            Order::DrainLoans { count, size, marking } => {
                let loans = lending()?;
                station.post_all_data(marking, DataUse::ManyMessages { size: 64 })?;
                station.send_order(client, Order::Done { value: 0 })?;
                let bad = drain_loans(station, loans, (count, size))?;
                station.send_order(client, Order::Done { value: bad })?;
            }
            Order::EchoWrites { count, size, address, key } => {
                let place = RemotePlace { address, key };
                one_sided::echo_back(station, client, (count, size), place)?;
            }
            Order::TakeWrites { count, size } => {
                one_sided::take(station, client, (count, size))?;
            }
            Order::OpenFloor { .. } => {
                return Err("the client wants a bare connection here".into());
            }
            Order::Tally => return Err("the client thinks that messages may be lost here".into()),
            Order::Done { .. }
            | Order::Took { .. }
            | Order::TooLong { .. }
            | Order::Enough { .. }
            | Order::Place { .. } => {
                return Err("the client sent an answer where an order was due".into());
            }
            Order::Bye => return Ok(Verdict::Well),
        }
    }
}

/// Says that the floor may begin, and turns until it does: a provider may move that message only while somebody turns.
fn let_begin<P: Provider, F: ServerFloor>(
    station: &Station<'_, P, F>,
    client: Addr,
) -> Result<(), Failure> {
    station.send_order(client, Order::Done { value: 0 })?;
    let deadline = Deadline::new();
    while !station.floor.has_begun() {
        station.turn();
        station.watch(&deadline, "the client does not begin with the floor")?;
    }
    Ok(())
}

/// Short messages share buffers, where the provider has that; long ones have one each.
fn stream_use<P: Provider, F: Witness>(station: &Station<'_, P, F>, size: u64) -> DataUse {
    let shares = station.endpoint.info().supports_multi_recv();
    match u32::try_from(size) {
        Ok(size) if shares && u64::from(size) * 4 <= 16 << 10 => DataUse::ManyMessages { size },
        _ => DataUse::OneMessage,
    }
}

fn echo<P: Provider, F: Witness>(
    station: &Station<'_, P, F>,
    client: Addr,
    count: u64,
    marking: Marking,
) -> Result<(), Failure> {
    let to = data_to(client, marking);
    let deadline = Deadline::new();
    let mut left = count;
    while left > 0 {
        let may_have_come = station.turns_up();
        while may_have_come
            && left > 0
            && let Some(completion) = station.endpoint.poll()
        {
            if completion.kind != Kind::Received {
                continue;
            }
            loop {
                let sent =
                    station.endpoint.read(&completion, |bytes| station.endpoint.inject(to, bytes));
                match sent {
                    Some(Ok(())) => break,
                    Some(Err(PostError::Retry(_))) => station.endpoint.flush(),
                    Some(Err(refused)) => return Err(refused.into()),
                    None => return Err("a message came without its bytes".into()),
                }
                station.watch(&deadline, "the client takes no answers")?;
            }
            station.endpoint.flush();
            if let Some(loan) = completion.loan {
                station.post_data(loan, marking, DataUse::OneMessage)?;
            }
            left = left.saturating_sub(1);
            deadline.moved();
        }
        station.watch(&deadline, GONE_QUIET)?;
    }
    Ok(())
}

/// Sends back every buffer that comes, after a look at it. What comes after the last one is the next order, and is left where it is.
fn echo_loans<P: Provider, F: Witness>(
    station: &Station<'_, P, F>,
    loans: &Loans<'_>,
    client: Addr,
    (count, size, marking): (u64, u64, Marking),
) -> Result<(), Failure> {
    let to = data_to(client, marking);
    let size = usize::try_from(size)?;
    let deadline = Deadline::new();
    let mut number = 0;
    while number < count {
        station.turn();
        while number < count
            && let Some(mut completion) = station.endpoint.poll()
        {
            let Some(guard) = loans.take(&mut completion)? else { continue };
            if !loans::looks_like(&guard, size, number)? {
                return Err("a buffer came changed".into());
            }
            loans.send(station, to, guard, &deadline)?;
            station.endpoint.flush();
            // The client is not waiting for this: few buffers that are used again and again are near.
            loans.lender.collect(&station.endpoint);
            if let Some(loan) = completion.loan {
                station.post_data(loan, marking, DataUse::OneMessage)?;
            }
            number = number.saturating_add(1);
            deadline.moved();
        }
        station.watch(&deadline, GONE_QUIET)?;
    }
    loans.settle(station)
}

/// Takes `count` buffers, or as many as the client says in the end, and returns how many were not what they should be.
fn drain_loans<P: Provider, F: Witness>(
    station: &Station<'_, P, F>,
    loans: &Loans<'_>,
    (mut count, size): (u64, u64),
) -> Result<u64, Failure> {
    let size = usize::try_from(size)?;
    let deadline = Deadline::new();
    let mut next = 0;
    let mut bad = 0_u64;
    while next < count {
        station.turn();
        while next < count
            && let Some(mut completion) = station.endpoint.poll()
        {
            if Station::<P, F>::is_of_order(&completion) {
                count = station.cut_short(completion)?;
                continue;
            }
            let Some(guard) = loans.take(&mut completion)? else { continue };
            bad = bad.saturating_add(u64::from(!loans::is_good(&guard, size, next)?));
            next = next.saturating_add(1);
            deadline.moved();
        }
        station.watch(&deadline, GONE_QUIET)?;
    }
    Ok(bad)
}

/// Receives `count` messages of `size` bytes, or as many as the client says in the end, and returns how many were not what they should be.
fn drain<P: Provider, F: Witness>(
    station: &Station<'_, P, F>,
    (mut count, size): (u64, u64),
    marking: Marking,
    use_for: DataUse,
) -> Result<u64, Failure> {
    let size = usize::try_from(size)?;
    let check = pattern::Checker::new(size);
    let deadline = Deadline::new();
    let mut next = 0;
    let mut bad = 0_u64;
    while next < count {
        station.turn();
        while next < count
            && let Some(completion) = station.endpoint.poll()
        {
            if Station::<P, F>::is_of_order(&completion) {
                count = station.cut_short(completion)?;
                continue;
            }
            if completion.kind == Kind::Received {
                let seen = station.endpoint.read(&completion, |bytes| {
                    for message in completion.messages(bytes) {
                        bad = bad.saturating_add(u64::from(!check.is_good(message, next)));
                        next = next.saturating_add(1);
                    }
                });
                if seen.is_none() {
                    return Err("a message came without its bytes".into());
                }
            }
            deadline.moved();
            if let Some(loan) = completion.loan {
                station.post_data(loan, marking, use_for)?;
            }
        }
        station.watch(&deadline, GONE_QUIET)?;
    }
    Ok(bad)
}

#[cfg(test)]
mod tests {
    use spinwire_dataplane::id::Name;
    use spinwire_dataplane::msg::SendTo;
    use spinwire_dataplane::provider::shm::ShmPort;

    use super::*;
    use crate::pair::floor::{Floor, LaneFloor};
    use crate::pair::limit::Limit;
    use crate::pair::order::ORDER_TAG;

    type End<'s, 'm> = Station<'m, ShmPort<'s, 'm>, LaneFloor<'s>>;

    fn two_ends<R>(
        name: &str,
        then: impl FnOnce([&End<'_, '_>; 2]) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let name = format!("{name}-{}", std::process::id());
        let config = DomainConfig { geometry: geometry(64), ..DomainConfig::default() };
        let domain = Domain::create(&name, &config)?;
        let input = Input::Ignored;
        let role = |name| Role { name, buffer_bytes: 64, yields: true, input };
        let mut memory = [
            Plane::memory(station::arena_bytes(&role("a")))?,
            Plane::memory(station::arena_bytes(&role("b")))?,
        ];
        let [server_memory, client_memory] = &mut memory;
        let server = Station::open(&domain, &Plane::arena(server_memory), &role("server"))?;
        let client = Station::open(&domain, &Plane::arena(client_memory), &role("client"))?;
        domain.unlink()?;
        then([&server, &client])
    }

    /// Its time was up before all was sent.
    #[test]
    fn a_stream_that_is_cut_short_is_checked_as_far_as_it_goes() -> Result<(), Failure> {
        two_ends("cut-short", |[server, client]| {
            let to = client.endpoint.connect(&Name::new("server")?)?;
            let use_for = DataUse::OneMessage;
            for sent in [3, 1] {
                server.post_all_data(Marking::Untagged, use_for)?;
                let mut stamper = pattern::Stamper::new(64);
                for number in 0..sent {
                    let to = data_to(to, Marking::Untagged);
                    client.endpoint.inject(to, stamper.message(number))?;
                }
                client.send_order(to, Order::Enough { count: sent })?;
                let found = drain(server, (u64::MAX, 64), Marking::Untagged, use_for)?;
                assert_eq!(found, 0, "{sent}");
            }
            client.send_order(to, Order::Bye)?;
            let error = drain(server, (u64::MAX, 64), Marking::Untagged, use_for).unwrap_err();
            assert!(error.to_string().contains("where it was streaming"));
            Ok(())
        })
    }

    #[test]
    fn floors_that_are_cut_short_end_with_what_was_sent() -> Result<(), Failure> {
        const COUNT: u64 = 1 << 40;
        two_ends("short-floor", |[server, client]| {
            client.floor.reset();
            let (there, here) = (server.floor, client.floor);
            let took = std::thread::scope(|scope| {
                let takes = scope.spawn(move || there.copy_out(&mut [0; 64], COUNT));
                let sent = here.copy_in(0, &[7; 64], (COUNT, &Limit::after(Some(0.0))))?;
                takes.join().map_err(|_panicked| "it panicked")??;
                Ok::<_, Failure>(sent)
            })?;
            assert!(took > 0 && took < COUNT, "{took}");
            Ok(())
        })
    }

    /// The client has its last answer before this end has looked again: its next order lies right behind the last message.
    #[test]
    fn an_order_right_behind_the_last_message_is_not_taken_for_one() -> Result<(), Failure> {
        const COUNT: u64 = 3;
        two_ends("order-behind", |[server, client]| {
            let to = client.endpoint.connect(&Name::new("server")?)?;
            let from = server.endpoint.connect(&Name::new("client")?)?;
            server.post_all_data(Marking::Tagged, DataUse::OneMessage)?;
            for _ in 0..COUNT {
                client.endpoint.inject(data_to(to, Marking::Tagged), &[7; 64])?;
            }
            let next = Order::Floor { count: 5, size: 0 };
            client.endpoint.inject(SendTo::peer(to).tag(ORDER_TAG), &next.encode())?;
            client.endpoint.flush();
            echo(server, from, COUNT, Marking::Tagged)?;
            let (_, order) = server.next_order(Patience::Limited)?;
            if order == next { Ok(()) } else { Err("another order came".into()) }
        })
    }
}
