//! The one bridge from async code to the rayon pool.

use tokio::sync::oneshot;

/// Runs `work` on the rayon pool and waits for it without blocking the runtime.
/// A panic of `work` is resumed here.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = oneshot::channel();
    rayon::spawn(move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // The receiver is gone when the caller was cancelled: nobody wants the result.
        let _ = done.send(outcome);
    });
    match result.await {
        Ok(Ok(value)) => value,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        // Invariant: the job above always sends, whatever `work` does.
        Err(_) => unreachable!("a rayon job ended without an answer"),
    }
}
