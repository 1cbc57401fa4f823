//! The question before each write, in builds for step tests (`--cfg spinwire_steps`) only.

unsafe extern "Rust" {
    /// Whether the next write of this thread happens. Defined by the test, which may kill the process instead, or let others act before it
    /// answers; with `false` the process is dead, and whatever its code goes on to do leaves no trace.
    pub(crate) safe fn spinwire_step() -> bool;
}
