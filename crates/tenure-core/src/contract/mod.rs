//! The contract between the engine and a store: what a backend implements, promises and reports.

pub(crate) mod backend;
pub(crate) mod capabilities;
pub(crate) mod check;
pub(crate) mod clock;
pub(crate) mod error;
pub(crate) mod name;
pub(crate) mod page;
pub(crate) mod process;
pub(crate) mod token;
pub(crate) mod wish;
