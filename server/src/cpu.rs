//! The one bridge from async code, and from threads that feed it, to the rayon pool.

use std::thread;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

/// Work on the rayon pool whose result is still to come.
pub struct Job<T>(oneshot::Receiver<thread::Result<T>>);

impl<T> Job<T> {
    /// Waits for the result and blocks the thread meanwhile. A panic of the work is resumed here.
    pub fn wait(self) -> T {
        result(self.0.blocking_recv())
    }
}

/// Begins `work` on the rayon pool.
pub fn begin<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Job<T> {
    let (done, result) = oneshot::channel();
    rayon::spawn(move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // The receiver is gone when the caller was cancelled: nobody wants the result.
        let _ = done.send(outcome);
    });
    Job(result)
}

/// Runs `work` on the rayon pool and waits for it without blocking the runtime.
/// A panic of `work` is resumed here.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    result(begin(work).0.await)
}

fn result<T>(received: Result<thread::Result<T>, RecvError>) -> T {
    match received {
        Ok(Ok(value)) => value,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        // Invariant: the job always sends, whatever its work does.
        Err(_) => unreachable!("a rayon job ended without an answer"),
    }
}
