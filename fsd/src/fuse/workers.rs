//! A few threads for requests that may block for long, so that the readers stay free.
//!
//! Started when first needed, parked between jobs. A job answers its own request. When no thread
//! can be had the job runs where it was handed in: slow is better than unanswered.

use std::collections::VecDeque;
use std::thread::{self, JoinHandle};

use crate::sync::{Arc, Condvar, Mutex, lock, wait};

/// Most threads. A disk serves a handful of syncs at once; more threads would only queue there.
const MAX_THREADS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// The pool. Dropping it waits for the jobs handed in.
#[derive(Debug, Default)]
pub(super) struct Workers {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    closing: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Workers {
    /// Runs `job` on a thread of the pool.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.queue.state);
        state.jobs.push_back(Box::new(job));
        let covered = state.idle >= state.jobs.len();
        drop(state);
        if covered || !self.start_one() {
            self.queue.wake.notify_one();
        }
    }

    /// Starts one more thread, within the limit. `false` when there is no new one.
    fn start_one(&self) -> bool {
        let mut threads = lock(&self.threads);
        if threads.len() >= MAX_THREADS {
            return false;
        }
        let queue = Arc::clone(&self.queue);
        let name = format!("fuse-work-{}", threads.len());
        match thread::Builder::new()
            .name(name)
            .spawn(move || queue.serve())
        {
            Ok(thread) => {
                threads.push(thread);
                true
            }
            Err(error) if threads.is_empty() => {
                tracing::warn!(%error, "no worker thread; a reader does its work");
                drop(threads);
                while let Some(job) = self.queue.take() {
                    job();
                }
                true
            }
            Err(_) => false,
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        lock(&self.queue.state).closing = true;
        self.queue.wake.notify_all();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // A job catches its panics; there is nothing to learn from the result.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn take(&self) -> Option<Job> {
        lock(&self.state).jobs.pop_front()
    }

    fn serve(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = lock(&self.state);
            } else if state.closing {
                return;
            } else {
                state.idle += 1;
                state = wait(&self.wake, state);
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_run_side_by_side_and_all_of_them() {
        let workers = Workers::default();
        let (done, finished) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        let blocked = done.clone();
        workers.run(move || {
            let _ = gate.recv();
            let _ = blocked.send(0);
        });
        for n in 1..=20 {
            let done = done.clone();
            workers.run(move || {
                let _ = done.send(n);
            });
        }
        let mut seen: Vec<i32> = finished.iter().take(20).collect();
        seen.sort_unstable();
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
        open.send(()).expect("the blocked job waits");
        assert_eq!(finished.recv(), Ok(0));
    }

    #[test]
    fn dropping_waits_for_the_jobs() {
        let (done, finished) = mpsc::channel();
        let workers = Workers::default();
        for n in 0..50 {
            let done = done.clone();
            workers.run(move || {
                let _ = done.send(n);
            });
        }
        drop(workers);
        assert_eq!(finished.try_iter().count(), 50);
    }
}
