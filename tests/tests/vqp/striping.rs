//! striping
