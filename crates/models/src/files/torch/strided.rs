//! Tensors as views of storages: checked, and copied into order where they are not.

use std::ops::Range;

use super::refusal::{DAMAGED, Refusal, Result};
use super::value::Tensor;
use crate::files::Bytes;

/// Copies may take that many times the length of the file: a file of a few bytes can name the
/// same storage in a thousand orders.
const MOST_COPIES: usize = 4;

/// Makes tensors of storages, within a limit to what is copied.
pub(super) struct Copies<'a> {
    bytes: &'a Bytes,
    /// Bytes that may still be copied.
    left: usize,
}

impl<'a> Copies<'a> {
    pub(super) fn of(bytes: &'a Bytes) -> Self {
        Self { bytes, left: bytes.len().saturating_mul(MOST_COPIES) }
    }

    /// The tensor's values in order, and where they lie in the bytes. `storage` is the place of
    /// its storage in the file.
    pub(super) fn view(
        &mut self,
        tensor: &Tensor<'_>,
        storage: Range<usize>,
    ) -> Result<(Bytes, Range<usize>)> {
        let size = tensor.element.size;
        let written = tensor.storage.count.checked_mul(tensor.storage.element.size);
        if written != Some(storage.len()) {
            return Err(damaged(format!(
                "has a storage of {} {} in {} bytes",
                tensor.storage.count,
                tensor.storage.element.name,
                storage.len()
            )));
        }
        let count = count(&tensor.shape)?;
        let held = storage.len() / size;
        if count == 0 {
            return Ok((self.bytes.clone(), storage.start..storage.start));
        }
        let last = last(tensor).filter(|last| *last < held);
        if last.is_none() {
            return Err(damaged(format!(
                "has shape {:?} with strides {:?} from {}, which leaves its storage of {held} values",
                tensor.shape, tensor.strides, tensor.offset
            )));
        }
        let start = storage.start + tensor.offset * size;
        if in_order(tensor) {
            return Ok((self.bytes.clone(), start..start + count * size));
        }
        if count > held {
            return Err(Refusal::new(format!(
                "repeats its storage of {held} values until there are {count}"
            ))
            .hint("save it with `tensor.contiguous()`"));
        }
        self.left = self.left.checked_sub(count * size).ok_or_else(|| {
            Refusal::new(format!(
                "is in another order than its storage, as are others: copies of them would take \
                 more than {MOST_COPIES} times the file"
            ))
        })?;
        let copy = copy(&self.bytes[start..storage.end], tensor, count);
        let range = 0..copy.len();
        Ok((Bytes::owned(copy), range))
    }
}

fn count(shape: &[usize]) -> Result<usize> {
    let count = shape.iter().try_fold(1_usize, |count, dim| count.checked_mul(*dim));
    count.ok_or_else(|| damaged(format!("has shape {shape:?}, more values than can be counted")))
}

/// Place of the last value in the storage, if it can be counted.
fn last(tensor: &Tensor<'_>) -> Option<usize> {
    let mut axes = tensor.shape.iter().zip(&tensor.strides);
    axes.try_fold(tensor.offset, |last, (dim, stride)| {
        last.checked_add((dim - 1).checked_mul(*stride)?)
    })
}

/// Whether the values lie one after the other. Strides of axes of 1 mean nothing.
fn in_order(tensor: &Tensor<'_>) -> bool {
    let mut expected = 1;
    tensor.shape.iter().zip(&tensor.strides).rev().all(|(dim, stride)| {
        let fits = *dim == 1 || *stride == expected;
        expected *= dim;
        fits
    })
}

/// All values, row by row; the first of `bytes` is the first value.
fn copy(bytes: &[u8], tensor: &Tensor<'_>, count: usize) -> Vec<u8> {
    let size = tensor.element.size;
    // The stride of an axis of 1 may be anything.
    let axes = tensor.shape.iter().zip(&tensor.strides);
    let strides: Vec<usize> =
        axes.map(|(dim, stride)| if *dim == 1 { 0 } else { *stride }).collect();
    let mut values = Vec::with_capacity(count * size);
    let mut place = vec![0; tensor.shape.len()];
    let mut at = 0;
    for _ in 0..count {
        values.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for axis in (0..place.len()).rev() {
            place[axis] += 1;
            at += strides[axis];
            if place[axis] < tensor.shape[axis] {
                break;
            }
            at -= place[axis] * strides[axis];
            place[axis] = 0;
        }
    }
    values
}

fn damaged(reason: String) -> Refusal {
    Refusal::new(reason).hint(DAMAGED)
}
