//! How the device hears of new WQEs.
//!
//! ```text
//!   doorbell record    | receive 4 | send 4 |      in memory: the free-running index behind the last WQE, 16 bits, big end first
//!   doorbell register  8 bytes: the first word of the control segment of the last WQE
//!   BlueFlame          in place of that, the whole WQE, in blocks of 64 bytes
//! ```

numbers! {
    /// Slots of the doorbell record of a queue pair.
    pub mod dbr: u8 "MLX5_" {
        /// Receive queue.
        RECEIVE = 0, "MLX5_RCV_DBR";
        /// Send queue.
        SEND = 1, "MLX5_SND_DBR";
    }

    /// The unit of a send queue.
    pub mod basic_block: u32 "MLX5_SEND_WQE_" {
        /// Bytes.
        BYTES = 64, "MLX5_SEND_WQE_BB";
        /// Their logarithm.
        SHIFT = 6;
    }
}
