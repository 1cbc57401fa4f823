//! Messages: what a service holds in its hands.
//!
//! ```text
//!   Endpoint<P>       posts, polls, contexts, owned buffers           endpoint
//!     Contexts        what a program keeps of its operations            contexts
//!     SendTo, RecvFrom, Target, Completion                                    addressing, completion
//!     Lender, Parcel  buffers of a pool as messages                   lender, parcel
//!     P: Provider     whatever moves the bytes
//!       Matcher       posted receives and unexpected messages         matching
//! ```

pub mod addressing;
pub mod completion;
pub mod contexts;
pub mod endpoint;
pub mod lender;
pub mod matching;
pub mod parcel;
pub mod totals;

pub use addressing::{RecvFrom, SendTo, Target};
pub use completion::{Completion, Failure, Flags, Kind};
pub use contexts::{ContextError, ContextId, Contexts};
pub use endpoint::{Claimed, Endpoint, EndpointConfig, Exposed, Parts};
pub use lender::Lender;
pub use parcel::{Parcel, Untaken};
pub use totals::{Count, Counted, Totals};
