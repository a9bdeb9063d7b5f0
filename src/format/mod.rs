//! What is stored, field by field.

pub mod config;
pub mod duration;
pub mod entry;
pub mod keys;
pub mod manifest;
pub mod names;
pub mod pack;
pub mod policy;
pub mod receipt;
pub mod safetensors;
