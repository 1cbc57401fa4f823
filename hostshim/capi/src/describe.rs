//! Descriptions: what is in a buffer. Comments of public functions are those of the header.
#![allow(unsafe_code, reason = "names that a linker finds; no block, no pointer is followed here")]

use core::ffi::{c_char, c_int};

use spinwire_dataplane::pool::{AnyGuard, Description, PoolError, Shape};
use spinwire_layouts::shm::DType;
use spinwire_layouts::shm::pool::LABEL_BYTES;

use crate::buffer::exclusive;
use crate::desk::call;
use crate::foreign::{self, Out};
use crate::status::Trouble;
use crate::types::{SW_LABEL_MAX, SW_NDIM_MAX, sw_buffer, sw_description};

const _: () = assert!(SW_LABEL_MAX == LABEL_BYTES);
const _: () = assert!(SW_NDIM_MAX == spinwire_layouts::shm::MAX_NDIM);

/// Bytes of one element of a sw_dtype; 0 where there is no such type.
#[unsafe(no_mangle)]
pub extern "C" fn sw_dtype_bytes(dtype: u32) -> usize {
    self::dtype(dtype).ok().and_then(|dtype| usize::try_from(dtype.bytes()).ok()).unwrap_or(0)
}

/// Fills in a description of elements that lie side by side, the last dimension innermost (C order); without time, number and
/// labels. `shape` has `ndim` numbers. SW_ARGUMENT, or SW_SHAPE for more than SW_NDIM_MAX dimensions or too many bytes.
#[unsafe(no_mangle)]
pub extern "C" fn sw_description_init(
    description: *mut sw_description,
    dtype: u32,
    ndim: u32,
    shape: *const u64,
) -> c_int {
    call("sw_description_init", |_desk| {
        let description = Out::new("description", description)?;
        let count = usize::try_from(ndim).unwrap_or(usize::MAX);
        if count > SW_NDIM_MAX {
            return Err(PoolError::BadShape.into());
        }
        let lengths = foreign::read_all("shape", shape, count, SW_NDIM_MAX)?;
        let dtype = self::dtype(dtype)?;
        let shape = Shape::contiguous(dtype, &lengths)?;
        description.write(to_c(&Description::new(dtype, shape)));
        Ok(())
    })
}

/// Says what is in a buffer that is taken to write. Readers see it once it is published or detached. The description is copied.
///
/// SW_SHAPE where shape and strides do not lie within the bytes in use, or a stride is no whole number of elements;
/// SW_ARGUMENT for another dtype, or a label without an end; SW_READ_ONLY.
#[unsafe(no_mangle)]
pub extern "C" fn sw_describe(buffer: sw_buffer, description: *const sw_description) -> c_int {
    call("sw_describe", |desk| {
        let given = foreign::read("description", description)?;
        Ok(exclusive(desk.buffer(buffer)?)?.describe(&from_c(&given)?)?)
    })
}

/// What its writer said is in a buffer. Shape and strides lie within the bytes that sw_data() gives: that was checked.
///
/// SW_NOT_DESCRIBED; SW_SHAPE, SW_CORRUPT where what it says cannot be.
#[unsafe(no_mangle)]
pub extern "C" fn sw_description_of(buffer: sw_buffer, description: *mut sw_description) -> c_int {
    call("sw_description_of", |desk| {
        let out = Out::new("description", description)?;
        let found = match desk.buffer(buffer)? {
            AnyGuard::Exclusive(guard) => guard.description(),
            AnyGuard::Shared(guard) => guard.description(),
            AnyGuard::Forgotten => Err(PoolError::AlreadyForgotten),
        };
        out.write(to_c(&found?));
        Ok(())
    })
}

fn dtype(number: u32) -> Result<DType, Trouble> {
    let code = u8::try_from(number).ok().and_then(DType::from_code);
    code.ok_or(Trouble::argument("dtype", "it is no number of sw_dtype"))
}

fn from_c(given: &sw_description) -> Result<Description, Trouble> {
    let count = usize::try_from(given.ndim).unwrap_or(usize::MAX);
    let (Some(lengths), Some(strides)) = (given.shape.get(..count), given.strides.get(..count))
    else {
        return Err(Trouble::argument("description.ndim", "it is more than SW_NDIM_MAX"));
    };
    let shape = Shape::strided(lengths, strides)?;
    Ok(Description {
        timestamp_ns: given.timestamp_ns,
        sequence: given.sequence,
        content_type: label("description.content_type", &given.content_type)?,
        producer: label("description.producer", &given.producer)?,
        ..Description::new(dtype(given.dtype)?, shape)
    })
}

fn to_c(found: &Description) -> sw_description {
    let spread = |from: &[u64]| {
        let mut to = [0; SW_NDIM_MAX];
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
        to
    };
    let text = |from: &[u8; LABEL_BYTES]| {
        let mut to = [0; 40];
        for (to, from) in to.iter_mut().zip(from) {
            *to = c_char::from_le_bytes([*from]);
        }
        to
    };
    sw_description {
        dtype: found.dtype.code().into(),
        ndim: u32::try_from(found.shape.lengths().len()).unwrap_or(0),
        shape: spread(found.shape.lengths()),
        strides: spread(found.shape.strides()),
        timestamp_ns: found.timestamp_ns,
        sequence: found.sequence,
        content_type: text(&found.content_type),
        producer: text(&found.producer),
    }
}

/// Up to the zero at its end, which must come.
fn label(name: &'static str, from: &[c_char; 40]) -> Result<[u8; LABEL_BYTES], Trouble> {
    let end = from.iter().position(|c| *c == 0).filter(|end| *end <= LABEL_BYTES);
    let Some(end) = end else {
        return Err(Trouble::argument(name, "it has more than SW_LABEL_MAX bytes before its zero"));
    };
    let mut to = [0; LABEL_BYTES];
    for (to, from) in to.iter_mut().zip(from.iter().take(end)) {
        let [byte] = from.to_le_bytes();
        *to = byte;
    }
    Ok(to)
}
