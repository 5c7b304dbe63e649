//! [`Connector`]: the kernel's own word on every fork, over the process connector.
//!
//! An event is queued before the new process runs for the first time, so whoever drains the queue
//! before looking a process up knows of its birth. Heard by root, and from Linux 6.6 on by everybody,
//! in the initial pid and network namespaces only. Source: linux/cn_proc.h, linux/connector.h.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto,
    socket_with, sockopt,
};

/// Index and value of the process connector; the index is its multicast group, too.
const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const MCAST_LISTEN: u32 = 1;
/// What an event is of: nothing (an acknowledgement), or a fork or clone.
const EVENT_NONE: u32 = 0;
const EVENT_FORK: u32 = 1;
/// Type of a netlink message without a meaning to netlink itself.
const NLMSG_DONE: u16 = 3;
/// Bytes before the event: the headers of netlink and of the connector.
const HEADER_BYTES: usize = 16 + 20;
/// Where the facts of an event begin.
const FACTS_AT: usize = HEADER_BYTES + 16;
/// Room for events asked for. Without privileges the kernel gives what `net.core.rmem_max` allows.
const QUEUE_BYTES: usize = 8 << 20;

/// A process or thread that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fork {
    /// The process that it is a child of.
    pub parent: u32,
    /// The new thread; of a new process the same as `process`.
    pub thread: u32,
    /// The process it belongs to.
    pub process: u32,
}

/// One drain of the queue.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub forks: Vec<Fork>,
    /// Some were lost: the queue had been full.
    pub lost: bool,
}

/// Why the kernel's events cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Unheard {
    /// A system call was refused: no such protocol in this kernel or network namespace, say.
    #[error("{op}: {source}")]
    Refused {
        /// What was tried.
        op: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not acknowledge: it speaks to the initial pid namespace only, and before
    /// Linux 6.6 to root only.
    #[error("the kernel does not tell of forks here")]
    Silent,
}

/// A socket that hears of every fork.
#[derive(Debug)]
pub struct Connector {
    socket: OwnedFd,
}

impl Connector {
    /// Starts to listen.
    ///
    /// Errors: see [`Unheard`].
    pub fn open() -> Result<Self, Unheard> {
        // With a choice of events from Linux 6.6 on; before that root hears of all of them.
        match Self::open_with(&[MCAST_LISTEN, EVENT_FORK]) {
            Err(Unheard::Silent) => Self::open_with(&[MCAST_LISTEN]),
            answer => answer,
        }
    }

    fn open_with(words: &[u32]) -> Result<Self, Unheard> {
        let refused = |op| {
            move |e: Errno| Unheard::Refused {
                op,
                source: e.into(),
            }
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            flags,
            Some(CONNECTOR),
        )
        .map_err(refused("open the process connector"))?;
        // Whatever can be had: a queue that runs over costs accuracy, and that is noticed.
        if sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, QUEUE_BYTES);
        }
        let group = SocketAddrNetlink::new(0, CN_IDX_PROC);
        bind(&socket, &group).map_err(refused("join the process connector"))?;
        let connector = Self { socket };
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(
            &connector.socket,
            &request(words),
            SendFlags::empty(),
            &kernel,
        )
        .map_err(refused("ask the process connector"))?;
        // The kernel has answered by now, if it does.
        let mut acknowledged = false;
        connector.each(&mut |event| acknowledged |= event == Event::Acknowledged)?;
        if acknowledged {
            Ok(connector)
        } else {
            Err(Unheard::Silent)
        }
    }

    /// Takes everything out of the queue.
    ///
    /// Errors: the socket fails; nothing is to be heard from it any more.
    pub(super) fn drain(&self) -> Result<Heard, Unheard> {
        let mut heard = Heard::default();
        heard.lost = self.each(&mut |event| {
            if let Event::Fork(fork) = event {
                heard.forks.push(fork);
            }
        })?;
        Ok(heard)
    }

    /// Gives all that is queued to `take`; says whether something was lost.
    fn each(&self, take: &mut dyn FnMut(Event)) -> Result<bool, Unheard> {
        let mut lost = false;
        let mut bytes = [0; 256];
        loop {
            match recvfrom(&self.socket, &mut bytes, RecvFlags::empty()) {
                Ok((got, _, from)) => {
                    let sender = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    // Nobody but the kernel is believed.
                    if sender.is_some_and(|sender| sender.pid() == 0) {
                        take(Event::of(&bytes[..got.min(bytes.len())]));
                    }
                }
                Err(Errno::AGAIN) => return Ok(lost),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => lost = true,
                Err(e) => {
                    return Err(Unheard::Refused {
                        op: "listen to the process connector",
                        source: e.into(),
                    });
                }
            }
        }
    }

    /// Waits until there is something to drain.
    pub(super) fn wait(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Connector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Acknowledged,
    Fork(Fork),
    Other,
}

impl Event {
    fn of(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let facts = |index: usize| word(FACTS_AT + 4 * index);
        if (word(16), word(20)) != (Some(CN_IDX_PROC), Some(CN_VAL_PROC)) {
            return Self::Other;
        }
        match (word(HEADER_BYTES), facts(0), facts(1), facts(2), facts(3)) {
            (Some(EVENT_NONE), Some(0), ..) => Self::Acknowledged,
            (Some(EVENT_FORK), _, Some(parent), Some(thread), Some(process)) => Self::Fork(Fork {
                parent,
                thread,
                process,
            }),
            _ => Self::Other,
        }
    }
}

/// A message to the process connector.
fn request(words: &[u32]) -> Vec<u8> {
    let body_bytes = 4 * words.len();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body_bytes);
    bytes.extend(((HEADER_BYTES + body_bytes) as u32).to_ne_bytes());
    bytes.extend(NLMSG_DONE.to_ne_bytes());
    bytes.extend([0; 2 + 4 + 4]);
    for word in [CN_IDX_PROC, CN_VAL_PROC, 0, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend((body_bytes as u16).to_ne_bytes());
    bytes.extend([0; 2]);
    for word in words {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event as the kernel sends it.
    fn event(what: u32, facts: [u32; 4]) -> Vec<u8> {
        let mut bytes = request(&[what, 0, 0, 0]);
        for fact in facts {
            bytes.extend(fact.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn events_are_read_and_others_passed_over() {
        let fork = Fork {
            parent: 7,
            thread: 9,
            process: 8,
        };
        let forked = event(EVENT_FORK, [6, 7, 9, 8]);
        assert_eq!(Event::of(&forked), Event::Fork(fork));
        assert_eq!(Event::of(&event(EVENT_NONE, [0; 4])), Event::Acknowledged);
        assert_eq!(
            Event::of(&event(EVENT_NONE, [1, 0, 0, 0])),
            Event::Other,
            "a refusal"
        );
        assert_eq!(Event::of(&event(2, [6, 7, 9, 8])), Event::Other);
        for cut in 0..forked.len() {
            assert_eq!(Event::of(&forked[..cut]), Event::Other, "{cut} bytes");
        }
        let mut foreign = forked;
        foreign[16] = 9;
        assert_eq!(Event::of(&foreign), Event::Other);
    }
}
