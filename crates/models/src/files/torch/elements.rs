//! Number formats of torch: what storages and tensors are made of.

/// One number format of torch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// The class of its storages, where there is one.
    storage: &'static str,
    /// Its name as a `torch.dtype`.
    dtype: &'static str,
    /// Its name in safetensors files.
    pub(super) name: &'static str,
    /// Bytes per number.
    pub(super) size: usize,
}

/// Bytes of whatever meaning.
pub(super) const UNTYPED: &Element = &ELEMENTS[0];

/// `torch.storage._dtype_to_storage_type_map` and `_new_dtypes` of torch 2.15, without
/// quantised numbers.
const ELEMENTS: [Element; 18] = [
    element("ByteStorage", "uint8", "U8", 1),
    element("FloatStorage", "float32", "F32", 4),
    element("HalfStorage", "float16", "F16", 2),
    element("BFloat16Storage", "bfloat16", "BF16", 2),
    element("DoubleStorage", "float64", "F64", 8),
    element("LongStorage", "int64", "I64", 8),
    element("IntStorage", "int32", "I32", 4),
    element("ShortStorage", "int16", "I16", 2),
    element("CharStorage", "int8", "I8", 1),
    element("BoolStorage", "bool", "BOOL", 1),
    element("ComplexFloatStorage", "complex64", "C64", 8),
    element("ComplexDoubleStorage", "complex128", "C128", 16),
    element("", "uint16", "U16", 2),
    element("", "uint32", "U32", 4),
    element("", "uint64", "U64", 8),
    element("", "float8_e4m3fn", "F8_E4M3", 1),
    element("", "float8_e5m2", "F8_E5M2", 1),
    element("", "float8_e8m0fnu", "F8_E8M0", 1),
];

impl Element {
    pub(super) fn of_storage(class: &str) -> Option<&'static Self> {
        ELEMENTS.iter().find(|element| !class.is_empty() && element.storage == class)
    }

    pub(super) fn of_dtype(name: &str) -> Option<&'static Self> {
        ELEMENTS.iter().find(|element| element.dtype == name)
    }
}

const fn element(
    storage: &'static str,
    dtype: &'static str,
    name: &'static str,
    size: usize,
) -> Element {
    Element { storage, dtype, name, size }
}
