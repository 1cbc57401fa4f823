//! What went wrong, as the device says it.

use core::fmt;

use spinwire_layouts::mlx5::syndrome;

/// The syndrome of a failed completion. Any number is one; those that rdma-core has no name for are told as such.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Syndrome(pub u8);

impl Syndrome {
    /// Not done, because the queue had failed before: look for the error before it.
    #[inline]
    #[must_use]
    pub const fn is_flush(self) -> bool {
        self.0 == syndrome::WR_FLUSH_ERR
    }

    /// Name of the cause, and what helps.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self.0 {
            syndrome::LOCAL_LENGTH_ERR => {
                "local length error: the message is longer than the receive that it met; post larger ones"
            }
            syndrome::LOCAL_QP_OP_ERR => {
                "local operation error: this queue pair cannot do that; look at its type, its state and its limits"
            }
            syndrome::LOCAL_PROT_ERR => {
                "local protection error: a local key does not cover that memory; register it, or mend address and length"
            }
            syndrome::WR_FLUSH_ERR => "flushed: the queue pair had failed before",
            syndrome::MW_BIND_ERR => {
                "bind error: the memory window could not be bound; look at the rights of its region"
            }
            syndrome::BAD_RESP_ERR => "bad response: the other end answered nonsense",
            syndrome::LOCAL_ACCESS_ERR => {
                "local access error: a local key does not allow remote access of that kind; register with those rights"
            }
            syndrome::REMOTE_INVAL_REQ_ERR => {
                "remote invalid request: the other end found the request wrong; too long for its receive?"
            }
            syndrome::REMOTE_ACCESS_ERR => {
                "remote access error: the remote key does not allow that; look at key, range and rights"
            }
            syndrome::REMOTE_OP_ERR => {
                "remote operation error: the other end could not do it; look at its completions"
            }
            syndrome::TRANSPORT_RETRY_EXC_ERR => {
                "no answer: the other end is gone, or the network between; look at addresses, path and state"
            }
            syndrome::RNR_RETRY_EXC_ERR => {
                "receiver not ready: the other end had no receive posted; have it post more, or allow more retries"
            }
            syndrome::REMOTE_ABORTED_ERR => "remote abort: the other end broke it off",
            _ => "unknown syndrome: see the device's manual",
        }
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (syndrome {:#04x})", self.text(), self.0)
    }
}

impl core::error::Error for Syndrome {}
