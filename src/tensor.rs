//! Tensors: bytes with a meaning.

pub mod boxes;

use std::fmt;

/// The type of a tensor's elements, by its safetensors name. Names that this version does not know are kept as they
/// are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DType(String);

impl DType {
    /// By its safetensors name: `F32`, `BF16`, `F8_E4M3`.
    pub fn new(name: impl Into<String>) -> DType {
        DType(name.into())
    }

    /// The safetensors name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Bits of one element, or `None` for a type that this version does not know.
    pub fn bits(&self) -> Option<u32> {
        Some(match self.0.as_str() {
            "F4" => 4,
            "F6_E2M3" | "F6_E3M2" => 6,
            "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
            "I16" | "U16" | "F16" | "BF16" => 16,
            "I32" | "U32" | "F32" => 32,
            "I64" | "U64" | "F64" | "C64" => 64,
            _ => return None,
        })
    }

    /// What the codecs make of it.
    pub fn layout(&self) -> Layout {
        match self.0.as_str() {
            "F64" => Layout::Float { width: 8, mantissa_bits: 52 },
            "F32" => Layout::Float { width: 4, mantissa_bits: 23 },
            "C64" => Layout::Float { width: 4, mantissa_bits: 23 }, // pairs of F32
            "BF16" => Layout::Float { width: 2, mantissa_bits: 7 },
            "F16" => Layout::Float { width: 2, mantissa_bits: 10 },
            "F8_E4M3" | "F8_E4M3FNUZ" => Layout::Float { width: 1, mantissa_bits: 3 },
            "F8_E5M2" | "F8_E5M2FNUZ" => Layout::Float { width: 1, mantissa_bits: 2 },
            "I64" | "U64" => Layout::Integer { width: 8 },
            "I32" | "U32" => Layout::Integer { width: 4 },
            "I16" | "U16" => Layout::Integer { width: 2 },
            "I8" | "U8" => Layout::Integer { width: 1 },
            _ => Layout::Bytes,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the codecs see the elements of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Bytes without a structure that a codec would know.
    Bytes,
    /// Little-endian integers.
    Integer {
        /// Bytes of one: 1, 2, 4 or 8.
        width: u8,
    },
    /// Little-endian floats: a sign, an exponent, a mantissa.
    Float {
        /// Bytes of one: 1, 2, 4 or 8.
        width: u8,
        /// Bits of the mantissa that are stored.
        mantissa_bits: u8,
    },
}

impl Layout {
    /// Bytes of one element.
    pub fn width(self) -> usize {
        match self {
            Layout::Bytes => 1,
            Layout::Integer { width } | Layout::Float { width, .. } => usize::from(width),
        }
    }
}

/// The lengths of a tensor's dimensions; empty for a scalar.
pub type Shape = Vec<u64>;

/// A tensor without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorMeta {
    /// Its name in its file. Never changed.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: Shape,
    /// The length of its bytes.
    pub bytes: u64,
}

impl TensorMeta {
    /// False if type and shape ask for another number of bytes than there are, or for more than can be counted. An unknown
    /// type, or elements that do not fill whole bytes, ask for none.
    pub fn fits(&self) -> bool {
        let Some(bits) = self.dtype.bits() else { return true };
        let factors = self.shape.iter().map(|&d| u128::from(d)).chain([bits.into()]);
        let bits = match self.shape.contains(&0) {
            true => Some(0),
            false => factors.into_iter().try_fold(1u128, |n, factor| n.checked_mul(factor)),
        };
        bits.is_some_and(|bits| !bits.is_multiple_of(8) || bits / 8 == u128::from(self.bytes))
    }
}
