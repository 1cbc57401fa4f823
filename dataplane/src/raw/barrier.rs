//! Barriers, each with one meaning.
//!
//! Between processes the Release and Acquire of the accesses themselves do nearly all the work. What is left for a barrier is
//! the one order that they do not give: a store before a later load of another word.

use crate::sync::{Ordering, fence};

/// Everything that this thread stored before is visible before anything that it loads afterwards is read.
///
/// Two threads that each store a word, pass this, and load the other's word cannot both miss the other's store.
#[inline(always)]
pub fn store_before_load() {
    fence(Ordering::SeqCst);
}
