//! The runtime of one test.

use tokio::runtime::{Builder, Runtime};

/// Several workers, so that candidates really run side by side.
pub(crate) fn runtime() -> Runtime {
    #[expect(
        clippy::expect_used,
        reason = "a test on a host without threads can only fail"
    )]
    Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a tokio runtime")
}
