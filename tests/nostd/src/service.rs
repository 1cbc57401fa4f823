//! Endpoints that talk: requests by copy, answers out of owned buffers, over any provider.

use spinwire_dataplane::id::Name;
use spinwire_dataplane::msg::matching::MatchingConfig;
use spinwire_dataplane::msg::{Completion, Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::provider::loopback::{Hub, HubConfig, Port, PortConfig};
use spinwire_dataplane::provider::shm::{ShmConfig, ShmPort};
use spinwire_dataplane::provider::{EndpointType, Provider, Status};
use spinwire_dataplane::raw::loan::LoanPool;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::shm::Segment;
use spinwire_dataplane::shm::lease::{self, Joiner};
use spinwire_dataplane::time::Instant;

use crate::{Step, lent};

const MATCHING: MatchingConfig =
    MatchingConfig { recv_depth: 16, unexpected_depth: 16, unexpected_bytes_max: 64 };
const CONTEXTS: EndpointConfig = EndpointConfig { contexts_max: 16 };

fn names() -> Result<(Name, Name), Step> {
    let name = |text| Name::new(text).map_err(|_| Step::Arena);
    Ok((name("client")?, name("server")?))
}

/// Over lanes of the segment in which the proof has just worked by hand.
pub fn over_shm(segment: Segment<'static>, bump: &Bump<'static>) -> Result<(), Step> {
    let names = names()?;
    let config = ShmConfig { peers_max: 4, send_depth: 8, matching: MATCHING };
    let open = |name: &Name| {
        let joiner = Joiner { pid: 1, start_time: 1, joined_unix_ns: 1, command: [0; 64] };
        let lease = lease::join(&segment, &joiner).map_err(|_| Step::Join)?;
        let port = ShmPort::open(segment, lease, bump, (name, EndpointType::Rdm), &config);
        Endpoint::new(port.map_err(|_| Step::ShmPort)?, bump, &CONTEXTS).map_err(|_| Step::Arena)
    };
    let (client, server) = (open(&names.0)?, open(&names.1)?);
    talk(&client, &server, &names, bump).ok_or(Step::ShmTalk)?;
    lent::over(&client, &server, &names, bump).ok_or(Step::Lent)
}

/// Over a hub, without foreign memory.
pub fn over_loopback(bump: &Bump<'static>) -> Result<(), Step> {
    let names = names()?;
    let hub = HubConfig { ports_max: 2, link_depth: 16, messages_max: 16, message_bytes_max: 1024 };
    let hub = Hub::place(bump, &hub).map_err(|_| Step::Hub)?;
    let hub: &'static Hub<'static> = bump.value(hub).map_err(|_| Step::Arena)?;
    let config = PortConfig { peers_max: 4, send_depth: 8, matching: MATCHING, regions_max: 1 };
    let open = |name: &Name| {
        let port = Port::open(hub, bump, (name, EndpointType::Rdm), &config);
        Endpoint::new(port.map_err(|_| Step::Hub)?, bump, &CONTEXTS).map_err(|_| Step::Arena)
    };
    let (client, server) = (open(&names.0)?, open(&names.1)?);
    talk(&client, &server, &names, bump).ok_or(Step::HubTalk)
}

pub type End<P> = Endpoint<'static, P>;

/// A thousand requests and answers. `None` where anything is not as it should be.
fn talk<P: Provider>(
    client: &End<P>,
    server: &End<P>,
    (client_name, server_name): &(Name, Name),
    bump: &Bump<'static>,
) -> Option<()> {
    let pool = LoanPool::place(bump, 8, 512).ok()?;
    let to_server = client.connect(server_name).ok()?;
    let to_client = server.connect(client_name).ok()?;
    for round in 0..1000_u64 {
        let length = usize::try_from(round).ok()? % 400;
        let [byte, ..] = round.to_le_bytes();
        server.post_recv(RecvFrom::any().tag(round), pool.lend()?, round).ok()?;
        client.inject(SendTo::peer(to_server).tag(round), [byte; 400].get(..length)?).ok()?;
        let request = turn_until(client, server, server)?;
        if (request.kind, request.status, request.context)
            != (Kind::Received, Status::Success, round)
            || request.bytes()?.len() != length
            || request.bytes()?.iter().any(|found| *found != byte)
        {
            return None;
        }
        client.post_recv(RecvFrom::peer(to_server), pool.lend()?, round).ok()?;
        server.post_send(SendTo::peer(to_client), request.loan?, round).ok()?;
        if turn_until(client, server, server)?.kind != Kind::Sent {
            return None;
        }
        if turn_until(client, server, client)?.bytes()?.len() != length {
            return None;
        }
    }
    (client.posted_count() == 0 && server.posted_count() == 0 && pool.free_count() == 8)
        .then_some(())
}

/// Turns both until `side` has a completion.
pub fn turn_until<P: Provider>(
    client: &End<P>,
    server: &End<P>,
    side: &End<P>,
) -> Option<Completion<'static>> {
    for turn in 0..64 {
        let now = Instant::from_nanos(turn);
        let _: Outcome = client.turn(now, Budget::DEFAULT) | server.turn(now, Budget::DEFAULT);
        if let Some(completion) = side.poll() {
            return Some(completion);
        }
    }
    None
}
