//! Rings of the kernel that runs.

use super::*;

#[test]
fn show() {
    let t = std::time::Instant::now();
    let ring = Uring::open(&UringConfig { files: 64, ..UringConfig::default() }).unwrap();
    println!("{:?}\n{}\n{:?}", t.elapsed(), ring.features(), ring.params());
    let t = std::time::Instant::now();
    drop(ring);
    println!("{:?} {:?}", t.elapsed(), query());
}
