//! Backends that are made of other backends.

pub(crate) mod both;
pub(crate) mod generation;
