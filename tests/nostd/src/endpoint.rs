//! The endpoint over every provider: everything that a turn of a service calls.

use spinwire_dataplane::error::{PostError, Refused};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::msg::{Completion, Endpoint, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::provider::fault::Fault;
use spinwire_dataplane::provider::loopback::Port;
use spinwire_dataplane::provider::shm::ShmPort;
use spinwire_dataplane::provider::tcp::TcpPort;
use spinwire_dataplane::provider::trace::Trace;
use spinwire_dataplane::provider::udp::UdpPort;
use spinwire_dataplane::provider::{CancelError, Event, Waiting};
use spinwire_dataplane::raw::loan::Loan;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::{Enter, EnterError};

unsafe extern "C" {
    /// A system call, of which nothing is known.
    safe fn spinwire_enter(to_submit: u32, min_complete: u32, flags: u32) -> i64;
}

/// A kernel that may say anything.
pub struct Kernel;

impl Enter for Kernel {
    fn enter(&self, to_submit: u32, min_complete: u32, flags: u32) -> Result<u32, EnterError> {
        u32::try_from(spinwire_enter(to_submit, min_complete, flags)).map_err(|_| EnterError::Busy)
    }
}

use crate::connections::{AnyDatagrams, AnyPort};
use crate::files::Answers;

/// The probes of one endpoint type.
macro_rules! endpoint_probes {
    ($module:ident, $provider:ty) => {
        mod $module {
            use super::*;

            type Probed<'a> = Endpoint<'a, $provider>;
            type Posted<'a> = Result<WrId, Refused<Loan<'a>>>;

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_inject"))]
            extern "C" fn inject(
                e: &Probed<'_>,
                to: SendTo,
                bytes: &[u8],
            ) -> Result<(), PostError> {
                e.inject(to, bytes)
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_post_send"))]
            extern "C" fn post_send<'a>(e: &Probed<'a>, to: SendTo, loan: Loan<'a>) -> Posted<'a> {
                e.post_send(to, loan, 0)
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_post_recv"))]
            extern "C" fn post_recv<'a>(
                e: &Probed<'a>,
                from: RecvFrom,
                loan: Loan<'a>,
            ) -> Posted<'a> {
                e.post_recv(from, loan, 0)
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_post_multi_recv"))]
            extern "C" fn post_multi_recv<'a>(
                e: &Probed<'a>,
                from: RecvFrom,
                loan: Loan<'a>,
                room_bytes_min: u32,
            ) -> Posted<'a> {
                e.post_multi_recv(from, loan, room_bytes_min, 0)
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_turn"))]
            extern "C" fn turn(e: &Probed<'_>, now: Instant, budget: Budget) -> Outcome {
                e.turn(now, budget)
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_poll"))]
            extern "C" fn poll<'a>(e: &Probed<'a>) -> Option<Completion<'a>> {
                e.poll()
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_read"))]
            extern "C" fn read<'a>(e: &Probed<'a>, completion: &Completion<'a>) -> Option<usize> {
                e.read(completion, |bytes| completion.messages(bytes).map(<[u8]>::len).max())?
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_poll_event"))]
            extern "C" fn poll_event(e: &Probed<'_>) -> Option<Event> {
                e.poll_event()
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_cancel"))]
            extern "C" fn cancel(e: &Probed<'_>, id: WrId) -> Result<(), CancelError> {
                e.cancel(id)
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_peek"))]
            extern "C" fn peek(e: &Probed<'_>, from: RecvFrom) -> Option<Waiting> {
                e.peek(from)
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_connect"))]
            extern "C" fn connect(e: &Probed<'_>, name: &Name) -> Result<Addr, PostError> {
                e.connect(name)
            }

            #[unsafe(export_name = concat!("probe_", stringify!($module), "_disconnect"))]
            extern "C" fn disconnect(e: &Probed<'_>, peer: Addr) -> Result<(), PostError> {
                e.disconnect(peer)
            }
        }
    };
}

endpoint_probes!(shm, ShmPort<'a, 'a>);
endpoint_probes!(tcp, TcpPort<'a, Kernel>);
endpoint_probes!(loopback, Port<'a, 'a>);
endpoint_probes!(fault, Fault<'a, Port<'a, 'a>>);
endpoint_probes!(trace, Trace<'a, ShmPort<'a, 'a>>);
endpoint_probes!(udp, UdpPort<'a, Answers>);
endpoint_probes!(rdma, AnyPort<'a>);
endpoint_probes!(rdma_datagrams, AnyDatagrams<'a>);
