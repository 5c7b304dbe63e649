//! Which of the threads that read requests looks for the next one awake, and which sleep.
//!
//! Waking a thread on another, idle CPU costs more than most requests do. While requests come in a row,
//! the thread that answered the last one therefore keeps looking for the next for some microseconds;
//! meanwhile the kernel wakes nobody. That thread has the *turn*. When it has gone on for a while, the
//! others stop waiting at the device, where each request would wake one of them for nothing: they are
//! *parked*, and help when it has more than it can do. Every few milliseconds they look whether it is held
//! up by one request (a disk that hangs), and then take the turn away. An idle mount has all its threads
//! asleep at the device.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use crate::sync::{Condvar, Mutex, lock, wait_for};

/// How often a parked thread looks whether it is needed.
const TICK: Duration = Duration::from_millis(5);
/// So many requests in a row, each found by looking, and the others are parked.
const ROW: u32 = 32;
/// So many requests that were there already when the one before was answered, and one is called to help.
const BEHIND: u32 = 4;

/// Within this time whoever was answered asks again, if it asks in a row.
const SOON: Duration = Duration::from_micros(15);

/// What the threads of a mount share.
#[derive(Debug)]
pub(super) struct Turns {
    spin: Duration,
    device: OwnedFd,
    /// Readable while threads are to leave the device.
    bell: OwnedFd,
    /// Whose turn it is: a number that no other turn has, or 0.
    turn: AtomicU64,
    /// The number of the next turn.
    next_turn: AtomicU64,
    /// The request that the thread in turn serves, by a number that no other has soon; 0: none.
    serving: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    parked: bool,
    /// Threads that were called to help and have not come yet.
    called: u32,
    over: bool,
}

/// Why a thread may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There may be a request.
    Look,
    /// There is time for one that nobody waits for.
    Kept,
    /// There was none for as long as asked.
    Idle,
    /// There will be none.
    End,
}

impl Turns {
    /// `spin`: for how long the thread in turn looks; zero: there are no turns.
    pub(super) fn new(device: &impl AsFd, spin: Duration) -> io::Result<Self> {
        Ok(Self {
            spin,
            device: device.as_fd().try_clone_to_owned()?,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            turn: AtomicU64::new(0),
            next_turn: AtomicU64::new(1),
            serving: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Whether reads are not to block.
    pub(super) fn spins(&self) -> bool {
        !self.spin.is_zero()
    }

    /// No thread waits any more.
    pub(super) fn end(&self) {
        lock(&self.state).over = true;
        self.ring();
        self.changed.notify_all();
    }

    fn ring(&self) {
        // Fails only when it is rung already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn park_others(&self, mine: u64) {
        let mut state = lock(&self.state);
        if self.turn.load(Ordering::Acquire) == mine {
            state.parked = true;
            self.ring();
        }
    }

    fn call_one(&self) {
        let mut state = lock(&self.state);
        if state.parked && state.called == 0 {
            state.called = 1;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// The turn, if it is nobody's.
    fn take(&self) -> Option<u64> {
        if self.turn.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let mine = self.next_turn.fetch_add(1, Ordering::Relaxed);
        let taken = (self.turn).compare_exchange(0, mine, Ordering::AcqRel, Ordering::Relaxed);
        taken.ok().map(|_| mine)
    }

    /// Ends this turn, unless it was taken away: everybody may wait at the device again.
    fn give_up(&self, mine: u64) {
        let ended = (self.turn).compare_exchange(mine, 0, Ordering::AcqRel, Ordering::Relaxed);
        if ended.is_err() {
            return;
        }
        let mut state = lock(&self.state);
        // Who has the turn by now has the others parked.
        if !state.parked || self.turn.load(Ordering::Acquire) != 0 {
            return;
        }
        state.parked = false;
        state.called = 0;
        if !state.over {
            // Fails only when nobody has rung it.
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits while parked. `None`: it is not, or no longer.
    fn stay_parked(&self) -> Option<Why> {
        let mut state = lock(&self.state);
        let mut seen = None;
        loop {
            if state.over {
                return Some(Why::End);
            }
            if !state.parked {
                return None;
            }
            if state.called > 0 {
                state.called -= 1;
                return Some(Why::Look);
            }
            let turn = self.turn.load(Ordering::Acquire);
            let now = (turn, self.serving.load(Ordering::Relaxed));
            if now.1 != 0 && seen == Some(now) {
                drop(state);
                self.give_up(turn);
                // It may have left something to be served.
                return Some(Why::Look);
            }
            let before = Instant::now();
            state = wait_for(&self.changed, state, TICK);
            if before.elapsed() >= TICK {
                seen = Some(now);
            }
        }
    }
}

/// One thread's place.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    turns: &'a Turns,
    /// Where it sleeps: the device, of which each request wakes one thread, and the bell.
    bed: OwnedFd,
    /// Its turn, if it was not taken away.
    turn: Option<u64>,
    /// Requests that it has served in turn, and the number of the last one for the others.
    count: u32,
    serving: u64,
    luck: Luck,
    /// When it had the last request answered.
    last: Option<Instant>,
    /// Requests that came while it was in turn.
    row: u32,
    /// Of these, those in a row that it did not have to wait for.
    behind: u32,
    waited: bool,
}

impl<'a> Seat<'a> {
    pub(super) fn new(turns: &'a Turns) -> io::Result<Self> {
        let bed = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64;
        let device = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&bed, &turns.device, data(0), device)?;
        epoll::add(&bed, &turns.bell, data(1), epoll::EventFlags::IN)?;
        Ok(Self {
            turns,
            bed,
            turn: None,
            count: 0,
            serving: 0,
            luck: Luck::default(),
            last: None,
            row: 0,
            behind: 0,
            waited: false,
        })
    }

    /// The turn that it has still.
    fn turn(&mut self) -> Option<u64> {
        let now = self.turns.turn.load(Ordering::Acquire);
        self.turn = self.turn.filter(|mine| *mine == now);
        self.turn
    }

    /// A request has come, which will take `long` or not.
    pub(super) fn serves(&mut self, long: bool) {
        if !self.turns.spins() {
            return;
        }
        match self.turn() {
            Some(_) if long => self.give_up(),
            Some(mine) => {
                self.luck.good();
                self.row += 1;
                if self.row == ROW {
                    self.turns.park_others(mine);
                }
                self.behind = if self.waited { 0 } else { self.behind + 1 };
                if self.behind >= BEHIND {
                    self.behind = 0;
                    self.turns.call_one();
                }
            }
            None if !long && self.luck.is_worth_it() => {
                self.turn = self.turns.take();
                self.row = 0;
                self.behind = 0;
            }
            None => {}
        }
        self.begin();
    }

    /// As [`Seat::serves`], of a request that nobody waits for: it tells nothing of what comes.
    pub(super) fn serves_unawaited(&mut self) {
        if self.turn().is_some() {
            self.begin();
        }
    }

    /// Shows the others that this request is being served.
    fn begin(&mut self) {
        if let Some(mine) = self.turn {
            self.count = self.count.wrapping_add(1);
            self.serving = mine << 32 | u64::from(self.count) | 1 << 31;
            self.turns.serving.store(self.serving, Ordering::Relaxed);
        }
    }

    /// It has been answered.
    pub(super) fn served(&mut self, now: Instant) {
        if self.turn().is_some() {
            // Unless another has the turn since a moment ago.
            let serving = &self.turns.serving;
            let _ = serving.compare_exchange(self.serving, 0, Ordering::Relaxed, Ordering::Relaxed);
            self.last = Some(now);
            self.waited = false;
        }
    }

    /// Whether it has had the turn for so long that the others are parked: they look after what it
    /// leaves when it is held up.
    pub(super) fn leads(&mut self) -> bool {
        self.turn().is_some() && self.row >= ROW
    }

    /// There is no request now: returns when there may be one. `most`: how long to sleep for it; `kept`:
    /// there are some that nobody waits for.
    pub(super) fn waits(&mut self, most: Option<Duration>, kept: bool) -> io::Result<Why> {
        if self.turn().is_some() {
            self.waited = true;
            let since = self.last.map(|last| last.elapsed());
            let is_within = |most| since.is_some_and(|since| since < most);
            if kept && !is_within(SOON.min(self.turns.spin)) {
                return Ok(Why::Kept);
            }
            if is_within(self.turns.spin) {
                std::hint::spin_loop();
                return Ok(Why::Look);
            }
            self.luck.bad();
            self.give_up();
        } else if kept && self.turns.turn.load(Ordering::Acquire) == 0 {
            // Whoever had it is held up.
            return Ok(Why::Kept);
        }
        match self.turns.stay_parked() {
            Some(why) => Ok(why),
            None => self.sleep(most),
        }
    }

    fn give_up(&mut self) {
        self.last = None;
        if let Some(mine) = self.turn.take() {
            self.turns.give_up(mine);
        }
    }

    fn sleep(&self, most: Option<Duration>) -> io::Result<Why> {
        let most = most.map(|most| Timespec {
            tv_sec: most.as_secs().cast_signed(),
            tv_nsec: most.subsec_nanos().into(),
        });
        let mut events = Vec::with_capacity(2);
        match epoll::wait(
            &self.bed,
            rustix::buffer::spare_capacity(&mut events),
            most.as_ref(),
        ) {
            Ok(0) => Ok(Why::Idle),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(Why::Look),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Whether looking for requests has been worth it of late: it is not where they come seldom, nor where
/// others want the CPU.
#[derive(Debug)]
struct Luck {
    score: i32,
    found: u32,
    /// How often the CPU had been taken from this thread when it was last asked.
    preempted: i64,
}

impl Default for Luck {
    fn default() -> Self {
        Self {
            score: 8,
            found: 0,
            preempted: preemptions(),
        }
    }
}

impl Luck {
    const MOST: i32 = 32;
    const LOST: i32 = 8;
    /// After so many requests without a look it is tried again.
    const LEAST: i32 = -64;
    /// A look at the clock of the scheduler after so many.
    const PERIOD: u32 = 64;
    /// The CPU was taken away so often meanwhile: somebody else needs it.
    const CROWDED: i64 = 16;

    /// A request came in time.
    fn good(&mut self) {
        self.score = (self.score + 1).min(Self::MOST);
        self.found += 1;
        if self.found.is_multiple_of(Self::PERIOD) {
            let now = preemptions();
            if now - self.preempted >= Self::CROWDED {
                self.score = Self::LEAST;
            }
            self.preempted = now;
        }
    }

    /// None came in time.
    fn bad(&mut self) {
        self.score -= Self::LOST;
        if self.score <= 0 {
            self.score = Self::LEAST;
        }
    }

    /// Asked with each request that finds nobody in turn.
    fn is_worth_it(&mut self) -> bool {
        if self.score > 0 {
            return true;
        }
        self.score += 1;
        if self.score > 0 {
            self.score = Self::LOST + 1;
        }
        self.score > 0
    }
}

/// How often the CPU was taken from this thread. Source: getrusage(2), `ru_nivcsw`.
fn preemptions() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIN: Duration = Duration::from_micros(50);

    /// A device that has a request for whoever looks.
    fn device() -> OwnedFd {
        eventfd(1, EventfdFlags::CLOEXEC).expect("an eventfd")
    }

    #[test]
    fn one_has_the_turn_until_nothing_comes() {
        let turns = Turns::new(&device(), SPIN).expect("turns");
        let mut one = Seat::new(&turns).expect("a seat");
        let mut other = Seat::new(&turns).expect("a seat");
        one.serves(false);
        other.serves(false);
        assert!(one.turn().is_some() && other.turn().is_none());
        one.served(Instant::now());
        other.served(Instant::now());
        while one.turn().is_some() {
            assert_eq!(one.waits(None, false).expect("a wait"), Why::Look);
        }
        other.serves(false);
        assert!(other.turn().is_some());
    }

    #[test]
    fn what_takes_long_is_served_without_the_turn() {
        let turns = Turns::new(&device(), SPIN).expect("turns");
        let mut one = Seat::new(&turns).expect("a seat");
        one.serves(true);
        assert!(one.turn().is_none());
        one.serves(false);
        one.served(Instant::now());
        assert!(one.turn().is_some());
        one.serves(true);
        assert!(one.turn().is_none());
    }

    #[test]
    fn who_is_held_up_loses_the_turn() {
        let turns = Turns::new(&device(), SPIN).expect("turns");
        let mut held = Seat::new(&turns).expect("a seat");
        for _ in 0..ROW {
            held.serves(false);
            held.served(Instant::now());
            // Or the other would be called to help.
            held.waited = true;
        }
        // It comes back from this one when the other has been served.
        held.serves(false);
        assert!(held.turn().is_some());
        let mut other = Seat::new(&turns).expect("a seat");
        assert_eq!(other.waits(None, false).expect("a wait"), Why::Look);
        other.serves(false);
        assert!(other.turn().is_some());
        held.served(Instant::now());
        assert!(held.turn().is_none() && other.turn().is_some());
    }

    #[test]
    fn what_one_that_is_held_up_has_left_is_served_by_another() {
        let nothing = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let turns = Turns::new(&nothing, SPIN).expect("turns");
        let mut held = Seat::new(&turns).expect("a seat");
        // The first of them gives it the turn.
        for _ in 0..=ROW {
            assert!(!held.leads());
            held.serves(false);
            held.served(Instant::now());
            held.waited = true;
        }
        assert!(held.leads());
        held.serves(false);
        let mut other = Seat::new(&turns).expect("a seat");
        // By no request, of which there is none.
        assert_eq!(other.waits(None, true).expect("a wait"), Why::Look);
        assert_eq!(other.waits(None, true).expect("a wait"), Why::Kept);
        assert!(!held.leads());
    }

    #[test]
    fn what_nobody_waits_for_is_served_before_anybody_sleeps() {
        let turns = Turns::new(&device(), SPIN).expect("turns");
        let mut one = Seat::new(&turns).expect("a seat");
        one.serves(false);
        one.served(Instant::now());
        let mut looks = 0;
        while one.waits(None, true).expect("a wait") == Why::Look {
            looks += 1;
        }
        assert!(looks > 0 && one.turn().is_some());
        // However late it was noticed.
        one.last = Some(Instant::now() - 2 * SPIN);
        assert_eq!(one.waits(None, true).expect("a wait"), Why::Kept);
        assert!(one.turn().is_some());
    }

    #[test]
    fn who_is_parked_is_told_of_the_end() {
        let turns = Turns::new(&device(), SPIN).expect("turns");
        let mut one = Seat::new(&turns).expect("a seat");
        one.serves(false);
        let mine = one.turn().expect("the turn");
        turns.park_others(mine);
        std::thread::scope(|scope| {
            let parked = scope.spawn(|| Seat::new(&turns)?.waits(None, false));
            turns.end();
            assert_eq!(parked.join().expect("no panic").expect("a wait"), Why::End);
        });
    }

    #[test]
    fn looking_is_left_off_where_it_does_not_pay() {
        let mut luck = Luck::default();
        luck.bad();
        assert!(!luck.is_worth_it());
        // And tried again.
        let tries = (1..1000).find(|_| luck.is_worth_it());
        assert_eq!(tries, Some(64));
        for _ in 0..100 {
            luck.good();
        }
        luck.bad();
        assert!(luck.is_worth_it());
    }
}
