//! The bytes as they are: for noise, and as the bound that every other codec is held against.
//!
//! # Body
//! The bytes of the chunk.

use super::{Base, Codec, CodecError, CodecId, Input, Scratch};

/// Stores the bytes as they are.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl Codec for Raw {
    fn id(&self) -> CodecId {
        CodecId::RAW
    }

    fn encode(&self, input: Input<'_>, _: &mut Scratch, out: &mut Vec<u8>) {
        out.extend_from_slice(input.bytes);
    }

    fn decode(&self, body: &[u8], _: Base<'_>, _: &mut Scratch, out: &mut [u8]) -> Result<(), CodecError> {
        if body.len() != out.len() {
            return Err(CodecError("a raw body of another length than its chunk"));
        }
        out.copy_from_slice(body);
        Ok(())
    }
}
