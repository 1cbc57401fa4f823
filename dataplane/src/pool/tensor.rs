//! What is in a buffer: its description, and views of it as a tensor.
//!
//! A description is written by the only holder before it publishes, and read by anybody who has a guard. It is foreign all the
//! same: every number is copied once and checked against the buffer that this process knows.

use core::mem::offset_of;

use spinwire_layouts::shm::pool::{KindWord, LABEL_BYTES};
use spinwire_layouts::shm::{BufferId, BufferMeta, DType, Element, MAX_NDIM, StorageType};
use spinwire_layouts::word::{from_usize, to_usize, word_of};

use super::error::PoolError;
use super::guard::{Exclusive, Guard, Mode};
use super::host::PoolHost;
use super::segment::{KIND, META_LINES, load, store};
use crate::error::Fatal;
use crate::raw::line::{LINE_WORDS, Line};

/// Shape and strides of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    ndim: u8,
    lengths: [u64; MAX_NDIM],
    strides: [u64; MAX_NDIM],
}

impl Shape {
    /// Elements side by side, the last dimension innermost (C order). No dimensions: one element.
    ///
    /// # Errors
    /// `BadShape` for more than eight dimensions, or more bytes than a number holds.
    pub fn contiguous(dtype: DType, lengths: &[u64]) -> Result<Self, PoolError> {
        let mut shape = Self::of(lengths)?;
        let mut stride = dtype.bytes();
        for at in (0..lengths.len()).rev() {
            if let (Some(to), Some(length)) = (shape.strides.get_mut(at), lengths.get(at)) {
                *to = stride;
                stride = stride.checked_mul((*length).max(1)).ok_or(PoolError::BadShape)?;
            }
        }
        Ok(shape)
    }

    /// With strides of its own: bytes from one element to the next in each dimension, as the buffer protocol of Python has
    /// them. A stride of 0 repeats an element.
    ///
    /// # Errors
    /// `BadShape` for more than eight dimensions, or another number of strides.
    pub fn strided(lengths: &[u64], strides: &[u64]) -> Result<Self, PoolError> {
        let mut shape = Self::of(lengths)?;
        if strides.len() != lengths.len() {
            return Err(PoolError::BadShape);
        }
        for (to, from) in shape.strides.iter_mut().zip(strides) {
            *to = *from;
        }
        Ok(shape)
    }

    fn of(lengths: &[u64]) -> Result<Self, PoolError> {
        let ndim = u8::try_from(lengths.len()).ok().filter(|&n| usize::from(n) <= MAX_NDIM);
        let mut shape =
            Self { ndim: ndim.ok_or(PoolError::BadShape)?, lengths: [0; 8], strides: [0; 8] };
        for (to, from) in shape.lengths.iter_mut().zip(lengths) {
            *to = *from;
        }
        Ok(shape)
    }

    /// Elements in each dimension, outermost first.
    #[must_use]
    pub fn lengths(&self) -> &[u64] {
        self.lengths.get(..usize::from(self.ndim)).unwrap_or_default()
    }

    /// Bytes from one element to the next in each dimension.
    #[must_use]
    pub fn strides(&self) -> &[u64] {
        self.strides.get(..usize::from(self.ndim)).unwrap_or_default()
    }

    /// Elements altogether; `None` where the number overflows.
    #[must_use]
    pub fn element_count(&self) -> Option<u64> {
        self.lengths().iter().try_fold(1_u64, |product, length| product.checked_mul(*length))
    }

    /// Bytes from the first element to the end of the last; 0 where a dimension is empty, `None` where it overflows.
    #[must_use]
    pub fn extent(&self, dtype: DType) -> Option<u64> {
        if self.lengths().contains(&0) {
            return Some(0);
        }
        self.lengths()
            .iter()
            .zip(self.strides())
            .try_fold(dtype.bytes(), |sum, (length, stride)| {
                sum.checked_add(length.checked_sub(1)?.checked_mul(*stride)?)
            })
    }

    /// Whether the elements lie side by side in C order. The stride of a dimension with one element says nothing, nor does any
    /// where there are no elements.
    #[must_use]
    pub fn is_contiguous(&self, dtype: DType) -> bool {
        let Ok(other) = Self::contiguous(dtype, self.lengths()) else { return false };
        let mut dimensions = self.lengths().iter().zip(self.strides()).zip(other.strides());
        self.lengths().contains(&0)
            || dimensions.all(|((length, stride), wanted)| *length == 1 || stride == wanted)
    }

    /// Bytes from the first element to the one at `index`; `None` where there is none.
    fn offset(&self, index: &[u64]) -> Option<u64> {
        if index.len() != usize::from(self.ndim) {
            return None;
        }
        let dimensions = index.iter().zip(self.lengths()).zip(self.strides());
        dimensions.into_iter().try_fold(0_u64, |sum, ((at, length), stride)| {
            if at < length { sum.checked_add(at.checked_mul(*stride)?) } else { None }
        })
    }
}

/// What is in a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Description {
    /// Where the bytes are.
    pub storage: StorageType,
    /// Number of the device; 0 for `Cpu`.
    pub device: u32,
    /// Type of the elements.
    pub dtype: DType,
    /// Shape and strides.
    pub shape: Shape,
    /// When it was made, in nanoseconds, of a clock that writer and reader agree on.
    pub timestamp_ns: u64,
    /// Number in a stream of buffers.
    pub sequence: u64,
    /// What the content is, filled up with zeros. Foreign bytes.
    pub content_type: [u8; LABEL_BYTES],
    /// Who made it, filled up with zeros. Foreign bytes.
    pub producer: [u8; LABEL_BYTES],
}

impl Description {
    /// Elements of `dtype` in that shape, without time, number or labels.
    #[must_use]
    pub const fn new(dtype: DType, shape: Shape) -> Self {
        Self {
            storage: StorageType::Cpu,
            device: 0,
            dtype,
            shape,
            timestamp_ns: 0,
            sequence: 0,
            content_type: [0; LABEL_BYTES],
            producer: [0; LABEL_BYTES],
        }
    }
}

const ID: usize = word_of(offset_of!(BufferMeta, id));
const TIMESTAMP: usize = word_of(offset_of!(BufferMeta, timestamp_ns));
const SEQUENCE: usize = word_of(offset_of!(BufferMeta, sequence));
const _: () =
    assert!(offset_of!(BufferMeta, shape) == 128 && offset_of!(BufferMeta, strides) == 192);
const _: () = assert!(offset_of!(BufferMeta, content_type) == 256);
const _: () = assert!(MAX_NDIM == LINE_WORDS && LABEL_BYTES == 32);

impl<H: PoolHost> Guard<'_, Exclusive, H> {
    /// Says what is in the buffer. Readers see it once the guard is published or detached.
    ///
    /// # Errors
    /// `TypeMismatch` for a storage other than `Cpu`; `BadShape` where the shape does not lie within the bytes in use, or its
    /// strides are no whole numbers of elements.
    pub fn describe(&mut self, description: &Description) -> Result<(), PoolError> {
        let Description { storage, device, dtype, shape, .. } = *description;
        if storage != StorageType::Cpu {
            return Err(PoolError::TypeMismatch { expected: StorageType::Cpu, actual: storage });
        }
        check_shape(&shape, dtype, self.len())?;
        let id = self.id().as_raw();
        let [hot, facts, lengths, strides, labels] = self.hold.place.meta;
        store(facts, ID, id);
        store(facts, TIMESTAMP, description.timestamp_ns);
        store(facts, SEQUENCE, description.sequence);
        store_words(lengths, shape.lengths);
        store_words(strides, shape.strides);
        store_labels(labels, &description.content_type, &description.producer);
        let (storage, dtype) = (storage.code(), dtype.code());
        let kind =
            KindWord { storage, dtype, ndim: shape.ndim, flags: KindWord::DESCRIBED, device };
        store(hot, KIND, kind.pack());
        Ok(())
    }

    /// The buffer as the tensor that it was [described](Self::describe) to be, in place, to fill it in.
    ///
    /// # Errors
    /// As [`tensor`](Guard::tensor); `Misaligned` where the bytes in use are no whole number of `T`.
    pub fn tensor_mut<T: Element>(&mut self) -> Result<TensorMut<'_, T>, PoolError> {
        let (shape, count) = self.shape_of::<T>()?;
        let elements = self.as_mut_slice::<T>()?.get_mut(..count).ok_or(PoolError::BadShape)?;
        Ok(TensorMut { elements, shape })
    }
}

impl<M: Mode, H: PoolHost> Guard<'_, M, H> {
    /// What the writer said is in the buffer.
    ///
    /// # Errors
    /// `NotDescribed`; `BadShape` where what it says does not lie in the buffer; `Fatal(Corrupt)` where the codes are none.
    pub fn description(&self) -> Result<Description, PoolError> {
        read_description(self.hold.place.meta, self.id(), self.len())
    }

    /// The buffer as the tensor that its writer described, in place.
    ///
    /// # Errors
    /// Those of [`description`](Guard::description) and [`as_slice`](Guard::as_slice); `ElementMismatch` where the elements are
    /// no `T`.
    pub fn tensor<T: Element>(&self) -> Result<Tensor<'_, T>, PoolError> {
        let (shape, count) = self.shape_of::<T>()?;
        let elements =
            self.payload().plain(self.access(), count).ok_or(PoolError::NoPlainAccess)?;
        Ok(Tensor { elements, shape })
    }

    /// The shape of a tensor of `T`, and how many elements lie from its first to its last.
    fn shape_of<T: Element>(&self) -> Result<(Shape, usize), PoolError> {
        self.check_storage()?;
        let Description { dtype, shape, .. } = self.description()?;
        if dtype != T::DTYPE {
            return Err(PoolError::ElementMismatch { expected: T::DTYPE, actual: dtype });
        }
        let extent = shape.extent(dtype).and_then(|bytes| bytes.checked_div(dtype.bytes()));
        Ok((shape, to_usize(extent.ok_or(PoolError::BadShape)?)))
    }
}

/// A tensor in a buffer, to read.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'g, T> {
    /// From the first element to the last, with what lies between them.
    elements: &'g [T],
    shape: Shape,
}

impl<'g, T: Element> Tensor<'g, T> {
    /// Shape and strides.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The element at `index`, one number a dimension; `None` where there is none.
    #[must_use]
    pub fn get(&self, index: &[u64]) -> Option<&'g T> {
        let at = self.shape.offset(index)?.checked_div(T::DTYPE.bytes())?;
        self.elements.get(to_usize(at))
    }

    /// All elements in C order, where they lie side by side.
    #[must_use]
    pub fn as_contiguous(&self) -> Option<&'g [T]> {
        self.shape.is_contiguous(T::DTYPE).then_some(self.elements)
    }
}

/// What the lines of a slot say of the use `id` of it, which has `length` bytes: every word read once, and checked.
pub(super) fn read_description(
    meta: &[Line; META_LINES],
    id: BufferId,
    length: usize,
) -> Result<Description, PoolError> {
    let [hot, facts, lengths, strides, labels] = meta;
    let kind = KindWord::unpack(load(hot, KIND));
    if kind.flags & KindWord::DESCRIBED == 0 || load(facts, ID) != id.as_raw() {
        return Err(PoolError::NotDescribed);
    }
    let corrupt = PoolError::Fatal(Fatal::Corrupt);
    let storage = StorageType::from_code(kind.storage).ok_or(corrupt)?;
    let dtype = DType::from_code(kind.dtype).ok_or(corrupt)?;
    let ndim = usize::from(kind.ndim);
    let (lengths, strides) = (load_words(lengths), load_words(strides));
    // What lies behind the last dimension is nobody's, and must not make two shapes differ.
    let (lengths, strides) = (lengths.get(..ndim), strides.get(..ndim));
    let shape = Shape::strided(lengths.ok_or(corrupt)?, strides.ok_or(corrupt)?)?;
    check_shape(&shape, dtype, length)?;
    let (content_type, producer) = load_labels(labels);
    Ok(Description {
        storage,
        device: kind.device,
        dtype,
        shape,
        timestamp_ns: load(facts, TIMESTAMP),
        sequence: load(facts, SEQUENCE),
        content_type,
        producer,
    })
}

/// A tensor in a buffer, to write.
#[derive(Debug)]
pub struct TensorMut<'g, T> {
    /// From the first element to the last, with what lies between them.
    elements: &'g mut [T],
    shape: Shape,
}

impl<T: Element> TensorMut<'_, T> {
    /// Shape and strides.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The element at `index`, one number a dimension; `None` where there is none. A stride of 0 gives one element several
    /// indices.
    pub fn get_mut(&mut self, index: &[u64]) -> Option<&mut T> {
        let at = self.shape.offset(index)?.checked_div(T::DTYPE.bytes())?;
        self.elements.get_mut(to_usize(at))
    }

    /// All elements in C order, where they lie side by side.
    pub fn as_contiguous_mut(&mut self) -> Option<&mut [T]> {
        self.shape.is_contiguous(T::DTYPE).then_some(&mut *self.elements)
    }
}

fn check_shape(shape: &Shape, dtype: DType, length: usize) -> Result<(), PoolError> {
    let whole = shape.strides().iter().all(|stride| stride.is_multiple_of(dtype.bytes()));
    match shape.extent(dtype) {
        Some(extent) if whole && extent <= from_usize(length) => Ok(()),
        _ => Err(PoolError::BadShape),
    }
}

fn store_words(line: &Line, words: [u64; LINE_WORDS]) {
    for (at, value) in words.into_iter().enumerate() {
        store(line, at, value);
    }
}

fn load_words(line: &Line) -> [u64; LINE_WORDS] {
    core::array::from_fn(|at| load(line, at))
}

fn store_labels(line: &Line, first: &[u8; LABEL_BYTES], second: &[u8; LABEL_BYTES]) {
    let mut at = 0_usize;
    for bytes in first.as_chunks::<8>().0.iter().chain(second.as_chunks::<8>().0) {
        store(line, at, u64::from_le_bytes(*bytes));
        at = at.wrapping_add(1);
    }
}

fn load_labels(line: &Line) -> ([u8; LABEL_BYTES], [u8; LABEL_BYTES]) {
    let (mut first, mut second) = ([0; LABEL_BYTES], [0; LABEL_BYTES]);
    let (a, b) = (first.as_chunks_mut::<8>().0, second.as_chunks_mut::<8>().0);
    let mut at = 0_usize;
    for to in a.iter_mut().chain(b) {
        *to = load(line, at).to_le_bytes();
        at = at.wrapping_add(1);
    }
    (first, second)
}
