//! The process inside a subject's mount that runs the rows, and the line of requests to it.
//!
//! One JSON object a line, both ways, over its standard input and output; it ends when its input
//! does. Who calls: `subject.rs` starts it, the runner asks.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Fallible;
use crate::rows::{self, Done, Place};
use crate::stop;

/// One step of a row.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Step {
    Prepare,
    Run,
    Clean,
}

#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    row: String,
    step: Step,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The first one; the device of the tree it stands in.
    Begun {
        device: u64,
    },
    Ready,
    Done(Done),
    Failed(String),
}

/// What the process does: answers until nobody asks.
pub fn serve(place: &Place) -> Fallible<()> {
    let mut out = std::io::stdout().lock();
    let device = std::fs::metadata(&place.top)?.dev();
    send(&mut out, &Answer::Begun { device })?;
    for line in std::io::stdin().lock().lines() {
        let ask: Ask = serde_json::from_str(&line?)?;
        let answer = obey(place, &ask).unwrap_or_else(|e| Answer::Failed(e.to_string()));
        send(&mut out, &answer)?;
    }
    Ok(())
}

fn obey(place: &Place, ask: &Ask) -> Fallible<Answer> {
    let row = rows::named(&ask.row)?;
    Ok(match ask.step {
        Step::Prepare => {
            (row.prepare)(place)?;
            Answer::Ready
        }
        Step::Run => Answer::Done((row.run)(place)?),
        Step::Clean => {
            (row.clean)(place)?;
            Answer::Ready
        }
    })
}

fn send<T: Serialize>(to: &mut impl Write, what: &T) -> Fallible<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)?;
    Ok(to.flush()?)
}

/// The runner's end.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    asks: Option<ChildStdin>,
    answers: Receiver<Answer>,
    device: u64,
}

impl Worker {
    /// Starts `command`, which is [`serve`] behind whatever leads into the mount.
    pub fn start(mut command: Command) -> Fallible<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
        let asks = child.stdin.take();
        let said = child.stdout.take().ok_or("no output")?;
        let (tell, answers) = channel();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                let answer = serde_json::from_str(&line)
                    .unwrap_or_else(|e| Answer::Failed(format!("not an answer: {e}: {line}")));
                if tell.send(answer).is_err() {
                    break;
                }
            }
        });
        let mut worker = Worker {
            child,
            asks,
            answers,
            device: 0,
        };
        match worker.answer(Duration::from_secs(60))? {
            Answer::Begun { device } => {
                worker.device = device;
                Ok(worker)
            }
            other => Err(format!("began with {other:?}").into()),
        }
    }

    /// One step of `row`; an answer after `limit` is no answer, and the process is ended.
    pub fn step(&mut self, row: &str, step: Step, limit: Duration) -> Fallible<Option<Done>> {
        self.ask(row, step)?;
        self.outcome(limit)
    }

    /// Begins a step, whose [`Self::outcome`] must be asked for before the next.
    pub fn ask(&mut self, row: &str, step: Step) -> Fallible<()> {
        let asks = self.asks.as_mut().ok_or("has ended")?;
        let row = row.to_owned();
        send(asks, &Ask { row, step })
    }

    /// The end of a step.
    pub fn outcome(&mut self, limit: Duration) -> Fallible<Option<Done>> {
        match self.answer(limit) {
            Ok(Answer::Ready) => Ok(None),
            Ok(Answer::Done(done)) => Ok(Some(done)),
            Ok(Answer::Failed(why)) => Err(why.into()),
            Ok(Answer::Begun { .. }) => Err("began twice".into()),
            Err(e) => {
                self.asks = None;
                let _ = self.child.kill();
                Err(e)
            }
        }
    }

    /// The file system it works in, by its device.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// The pid of what leads to it: the launcher of a run.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn answer(&self, limit: Duration) -> Fallible<Answer> {
        let end = Instant::now() + limit;
        loop {
            match self.answers.recv_timeout(Duration::from_millis(100)) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err("ended unasked".into()),
                Err(RecvTimeoutError::Timeout) => stop::check()?,
            }
            if Instant::now() > end {
                return Err(format!("no answer within {} s", limit.as_secs()).into());
            }
        }
    }

    /// Whether it can still be asked.
    pub fn is_alive(&self) -> bool {
        self.asks.is_some()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.asks = None;
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            match self.child.try_wait() {
                Ok(Some(_)) | Err(_) => return,
                Ok(None) => agentfs_tests::wait::pause(Duration::from_millis(5)),
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
