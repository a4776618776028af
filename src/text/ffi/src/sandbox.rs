//! Runs what an untrusted template steers on a thread of its own, with limits on stack, memory and time.
//!
//! Running out of memory normally ends a Rust process. Here the thread that would pass its budget stops inside the
//! allocator for good (unwinding there is not allowed) and whoever waits for it gets an error: the process lives on and
//! has lost a thread and at most the budget. Callers must not run the same template again.
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::fault::panic_text;

#[derive(Clone, Copy)]
pub struct Limits {
    pub stack_bytes: usize,
    pub memory_bytes: usize,
    pub time: Duration,
}

#[derive(Debug)]
pub enum Stop {
    Memory,
    Time,
    Panic(String),
    NoThread(String),
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Running,
    Finished,
    OutOfMemory,
}

struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

impl Watch {
    /// Does not allocate.
    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_all();
    }
}

thread_local! {
    /// What this thread may still allocate, net of what it frees, and whom it tells when it may not. Neither needs a
    /// destructor or lazy initialization, so the allocator can use them.
    static BUDGET: Cell<isize> = const { Cell::new(isize::MAX) };
    static WATCH: Cell<*const Watch> = const { Cell::new(std::ptr::null()) };
}

/// Runs `body` and waits for it. After Memory and Time its thread is left behind.
pub fn run<T: Send + 'static>(limits: Limits, body: impl FnOnce() -> T + Send + 'static) -> Result<T, Stop> {
    let watch = Arc::new(Watch { state: Mutex::new(State::Running), changed: Condvar::new() });
    let theirs = watch.clone();
    let guarded = move || {
        WATCH.set(&*theirs);
        BUDGET.set(isize::try_from(limits.memory_bytes).unwrap_or(isize::MAX));
        let result = catch_unwind(AssertUnwindSafe(body)).map_err(|panic| Stop::Panic(panic_text(&*panic)));
        WATCH.set(std::ptr::null());
        theirs.set(State::Finished);
        result
    };
    let thread = std::thread::Builder::new().name("chat template".into()).stack_size(limits.stack_bytes);
    let handle = thread.spawn(guarded).map_err(|e| Stop::NoThread(e.to_string()))?;
    let state = watch.state.lock().unwrap_or_else(PoisonError::into_inner);
    let (state, _) = watch
        .changed
        .wait_timeout_while(state, limits.time, |state| *state == State::Running)
        .unwrap_or_else(PoisonError::into_inner);
    let ended = *state;
    drop(state);
    match ended {
        State::Finished => handle.join().unwrap_or_else(|panic| Err(Stop::Panic(panic_text(&*panic)))),
        State::OutOfMemory => Err(Stop::Memory),
        State::Running => Err(Stop::Time),
    }
}

struct Budgeted;

#[global_allocator]
static ALLOCATOR: Budgeted = Budgeted;

impl Budgeted {
    fn charge(&self, bytes: isize) {
        let left = BUDGET.get().saturating_sub(bytes);
        BUDGET.set(left);
        let watch = WATCH.get();
        if left < 0 && !watch.is_null() {
            // SAFETY: the thread's own closure keeps the watch alive as long as the pointer is set.
            unsafe { &*watch }.set(State::OutOfMemory);
            loop {
                // SAFETY: no memory involved; a signal handler may return, hence the loop.
                unsafe { libc::pause() };
            }
        }
    }
}

// SAFETY: everything is the system's allocator; only counting is added.
unsafe impl GlobalAlloc for Budgeted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.charge(layout.size() as isize);
        System.alloc(layout)
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.charge(layout.size() as isize);
        System.alloc_zeroed(layout)
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.charge(size as isize - layout.size() as isize);
        System.realloc(pointer, layout, size)
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.charge(-(layout.size() as isize));
        System.dealloc(pointer, layout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { stack_bytes: 1 << 20, memory_bytes: 64 << 20, time: Duration::from_secs(60) };

    #[test]
    fn returns_values_and_panics() {
        assert_eq!(run(LIMITS, || 7).unwrap(), 7);
        assert!(matches!(run(LIMITS, || panic!("no {}", 1)), Err::<(), _>(Stop::Panic(text)) if text == "no 1"));
    }

    #[test]
    fn stops_at_the_memory_budget() {
        assert!(matches!(run(LIMITS, || vec![1u8; 100 << 20].len()), Err(Stop::Memory)));
        let grow = || {
            let mut text = String::from("x");
            loop {
                text.push_str(&text.clone());
            }
        };
        assert!(matches!(run(LIMITS, grow), Err::<(), _>(Stop::Memory)));
        // What is freed does not count.
        assert_eq!(run(LIMITS, || (0..100).map(|_| vec![1u8; 10 << 20].len()).sum::<usize>()).unwrap(), 1000 << 20);
    }

    #[test]
    fn stops_waiting_at_the_deadline() {
        let limits = Limits { time: Duration::from_millis(50), ..LIMITS };
        assert!(matches!(run(limits, || std::thread::sleep(Duration::from_secs(60))), Err(Stop::Time)));
    }
}
