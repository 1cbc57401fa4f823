//! Sends out of a registered arena: what goes uncopied names the registered buffer, and nothing else does.

use spinwire_dataplane::stream::{StreamConfig, StreamFeatures};
use spinwire_layouts::uring::{Sqe, op, recvsend};
use spinwire_tests::fake_kernel::FakeConfig;

use super::{ALL, config, with};

#[test]
fn only_what_goes_uncopied_names_a_registered_buffer() {
    for fixed_buffers in [false, true] {
        let features = StreamFeatures { fixed_buffers, ..ALL };
        let config = StreamConfig { features, zero_copy_min: 8, ..config() };
        with(&config, FakeConfig::default(), |rig| {
            let (conn, _receive) = rig.connection();
            rig.send(conn, b"short", 1);
            rig.send(conn, b"long enough", 2);
            rig.turn();
            let sent = rig.taken();
            let [copied, uncopied] = sent.as_slice() else { panic!("{sent:?}") };
            assert_eq!((copied.opcode, uncopied.opcode), (op::SEND, op::SEND_ZC));
            let names = |entry: &Sqe| entry.ioprio & recvsend::FIXED_BUF != 0;
            assert_eq!((names(copied), names(uncopied)), (false, fixed_buffers));
            assert_eq!((copied.buf_index, uncopied.buf_index), (0, 0));
        });
    }
}
