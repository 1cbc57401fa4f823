//! Messages: what a service holds in its hands.
//!
//! ```text
//!   Endpoint<P>       posts, polls, contexts, owned buffers           endpoint
//!     P: Provider     whatever moves the bytes
//!       Matcher       posted receives and unexpected messages         matching
//! ```

pub mod endpoint;
pub mod matching;

pub use endpoint::{Completion, Endpoint, EndpointConfig, Kind, RecvFrom, SendTo};
