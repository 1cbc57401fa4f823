//! What a completion, an error or a flush has ended.

/// What a success ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completed<E> {
    /// Of the signaled work request.
    pub entry: E,
    /// Unsignaled work requests before it that have ended well with it. Fill is not counted.
    pub unsignaled: u16,
    /// Basic blocks that are free again.
    pub blocks: u16,
}

/// What an error ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed<E> {
    /// What the error names.
    pub wqe: Posted<E>,
    /// What became of the unsignaled ones before it.
    pub earlier: Earlier,
    /// Basic blocks that are free again.
    pub blocks: u16,
}

/// A work request that was posted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Posted<E> {
    /// It asked for a completion, with this entry.
    Signaled(E),
    /// It asked for none.
    Unsignaled,
    /// Not of the caller: fill before the end of the ring.
    Fill,
}

/// Unsignaled work requests that an error ended along with the one that it names. Fill is not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Earlier {
    /// The error is the first one, and of the work request itself: so many before it had ended well.
    Done(u16),
    /// The queue had failed before, or was put into error: so many were flushed, or may have been, as nothing was said of them.
    Flushed(u16),
}

/// What an error says of the work request that it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailedBy {
    /// It failed by itself, so that the device was done with those before it.
    Itself,
    /// It was flushed, because the queue was in error: after an error of another one, or because somebody has put it there.
    Flush,
}

/// One work request that a flush ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flushed<E> {
    /// Index of its first basic block.
    pub index: u16,
    /// Its entry; `None` where it was unsignaled.
    pub entry: Option<E>,
}
