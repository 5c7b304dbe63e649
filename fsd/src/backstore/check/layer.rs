//! The files of one layer: every block of its table, every frame of its journals.

use std::path::{Path, PathBuf};

use super::{Code, Finding, Progress};
use crate::backstore::branch::{SOUND_FILE, read_sound};
use crate::backstore::codec;
use crate::backstore::error::StoreError;
use crate::backstore::journal::{self, Break, Frames, HEADER_BYTES};
use crate::backstore::layer::Files;
use crate::backstore::media::{Media, OpenMode};
use crate::backstore::objects::OBJECTS_DIR;
use crate::backstore::table::{self, Table};
use crate::core::record::{Content, Dentry, ExtentSource, LayerId, ObjectId};
use crate::core::types::Ino;

/// What is made of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Never written again.
    Frozen,
    /// The branch's own, held by nobody.
    Top,
    /// The branch's own, being written.
    Live,
}

/// What keeps a layer from being read as it was written, for the repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The table of this generation.
    Table(u64),
    /// What the header of this table says is less than its records.
    Facts(u64),
    /// The header of this journal, which must begin at the sequence number, where that is known.
    JournalHeader(u64, Option<u64>),
    /// There is no such journal.
    JournalMissing(u64, Option<u64>),
    /// This journal is good up to here.
    JournalCut(u64, u64),
    /// Nothing can be done about it.
    Hopeless,
}

/// What was found in the files of a layer.
#[derive(Clone, Debug, Default)]
pub struct Physical {
    /// In words.
    pub findings: Vec<Finding>,
    /// For the repair.
    pub harm: Vec<Harm>,
    /// Files that no longer count.
    pub leftovers: Vec<PathBuf>,
    /// Bytes verified.
    pub bytes: u64,
}

impl Physical {
    fn harmed(&mut self, finding: Finding, harm: Harm) {
        let hopeless = !finding.repairable;
        self.findings.push(finding);
        self.harm.push(if hopeless { Harm::Hopeless } else { harm });
    }
}

/// Whether what a layer with this harm says can be relied on.
pub fn is_readable(harm: &[Harm]) -> bool {
    harm.iter().all(|harm| matches!(harm, Harm::Facts(_)))
}

/// Reads and verifies all files of a layer but its objects.
///
/// Errors: those of listing its directory.
pub fn check(
    media: &dyn Media,
    id: LayerId,
    role: Role,
    progress: &mut Progress<'_>,
) -> Result<Physical, StoreError> {
    let files = Files::list(media)?;
    let mut look = Look {
        media,
        id,
        role,
        out: Physical::default(),
        total: total_bytes(media, &files),
        progress,
    };
    let first = files.tables.last().copied();
    let next_seq = match first {
        Some(generation) => look.table(generation),
        None => Some(1),
    };
    let last = look.journals(first.unwrap_or(0), next_seq, &files);
    if role != Role::Live {
        look.leftovers(first, last, &files);
    }
    Ok(look.out)
}

fn total_bytes(media: &dyn Media, files: &Files) -> u64 {
    let tables = files.tables.iter().next_back().copied();
    let journals = files.journals.iter().map(|n| journal::file_name(*n));
    tables
        .map(table::file_name)
        .into_iter()
        .chain(journals)
        .filter_map(|name| Some(media.facts(&name).ok()?.len))
        .sum()
}

struct Look<'a, 'p> {
    media: &'a dyn Media,
    id: LayerId,
    role: Role,
    out: Physical,
    total: u64,
    progress: &'a mut Progress<'p>,
}

impl Look<'_, '_> {
    fn read_bytes(&mut self, n: u64) {
        let before = self.out.bytes >> 20;
        self.out.bytes += n;
        if self.out.bytes >> 20 != before {
            (self.progress)("verifying", self.out.bytes, self.total.max(self.out.bytes));
        }
    }

    /// The sequence number at which its journal begins, if the table can say.
    fn table(&mut self, generation: u64) -> Option<u64> {
        let (media, id) = (self.media, self.id);
        let at = media.describe(&table::file_name(generation));
        let bad = table::bad_blocks(
            media,
            &table::file_name(generation),
            id,
            generation,
            &mut |n| self.read_bytes(n),
        );
        match bad {
            Err(e) => {
                let finding = Finding::of_error(Code::Table, &e);
                self.out.harmed(finding, Harm::Table(generation));
                return None;
            }
            Ok(bad) if !bad.is_empty() => {
                let what = format!(
                    "bad checksum of {}, first of block {}",
                    super::objects::counted(bad.len() as u64, "block"),
                    bad[0]
                );
                let finding = Finding::damage(Code::Table, what).file(at);
                self.out.harmed(finding, Harm::Table(generation));
                return self.seq_of_damaged(generation);
            }
            Ok(_) => {}
        }
        let table = Table::open(media, id, generation);
        match table.and_then(|table| Ok((facts_problem(&table)?, *table.facts()))) {
            Ok((problem, facts)) => {
                if let Some((code, what)) = problem {
                    let finding = Finding::damage(code, what).file(at);
                    self.out.harmed(finding, Harm::Facts(generation));
                }
                Some(facts.next_seq)
            }
            Err(e) => {
                let finding = Finding::of_error(Code::Table, &e);
                self.out.harmed(finding, Harm::Table(generation));
                None
            }
        }
    }

    fn seq_of_damaged(&self, generation: u64) -> Option<u64> {
        let saved = table::salvage_facts(self.media, generation)?;
        (saved.layer == self.id && saved.generation == generation).then_some(saved.next_seq)
    }

    /// Reads the journals from `first` on; says which was the last that counts.
    fn journals(&mut self, first: u64, mut next_seq: Option<u64>, files: &Files) -> u64 {
        let mut generation = first;
        loop {
            let name = journal::file_name(generation);
            let follow = files.journals.contains(&(generation + 1))
                && self
                    .media
                    .facts(&journal::file_name(generation + 1))
                    .is_ok_and(|facts| facts.len > HEADER_BYTES);
            next_seq = self.journal(generation, &name, next_seq, follow);
            if !follow {
                return generation;
            }
            generation += 1;
        }
    }

    fn journal(
        &mut self,
        generation: u64,
        name: &Path,
        want_seq: Option<u64>,
        follow: bool,
    ) -> Option<u64> {
        let at = self.media.describe(name);
        let file = match self.media.open(name, OpenMode::Read) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let finding = Finding::damage(Code::Journal, "is missing").file(at);
                let harm = Harm::JournalMissing(generation, want_seq);
                self.out.harmed(finding, harm);
                return None;
            }
            Err(e) => {
                let e = StoreError::io("open", at, e);
                let finding = Finding::of_error(Code::Journal, &e);
                self.out.harmed(finding, Harm::Hopeless);
                return None;
            }
        };
        let mut frames = match Frames::open(&*file, at.clone(), self.id, generation) {
            Ok(frames) => frames,
            Err(e) => {
                let finding = Finding::of_error(Code::Journal, &e);
                let harm = Harm::JournalHeader(generation, want_seq);
                self.out.harmed(finding, harm);
                return None;
            }
        };
        if want_seq.is_some_and(|want| want != frames.next_seq()) {
            let what = "does not go on where the one before ended";
            let finding = Finding::damage(Code::Journal, what).file(at);
            let harm = Harm::JournalHeader(generation, want_seq);
            self.out.harmed(finding, harm);
            return None;
        }
        self.read_bytes(HEADER_BYTES);
        loop {
            let start = frames.offset();
            let answer = frames
                .next_payload()
                .map(|payload| payload.map(|bytes| codec::decode_items(bytes).map(drop)));
            match answer {
                Ok(None) => break,
                Ok(Some(Ok(()))) => {
                    let n = frames.offset() - start;
                    self.read_bytes(n);
                }
                Ok(Some(Err(e))) => {
                    let what = format!("the frame at byte {start} makes no sense: {e}");
                    let finding = Finding::damage(Code::Journal, what).file(at);
                    self.out
                        .harmed(finding, Harm::JournalCut(generation, start));
                    return None;
                }
                Err(e) => {
                    let finding = Finding::of_error(Code::Journal, &e);
                    self.out.harmed(finding, Harm::Hopeless);
                    return None;
                }
            }
        }
        let (end, next) = (frames.offset(), frames.next_seq());
        let broken = frames.broken().cloned();
        self.judge_end(generation, at, end, broken.as_ref(), follow);
        Some(next)
    }

    /// Says whether a journal that ends at `end` has lost anything.
    fn judge_end(
        &mut self,
        generation: u64,
        at: PathBuf,
        end: u64,
        broken: Option<&Break>,
        follow: bool,
    ) {
        let had = read_sound(self.media)
            .filter(|(of, bytes)| *of == generation && *bytes > end.saturating_sub(HEADER_BYTES));
        let why = broken.map_or("cut short", |broken| broken.why);
        let reason = match (had, broken) {
            (Some((_, bytes)), _) => {
                Some(format!("where {bytes} bytes of frames were sound before"))
            }
            (None, Some(broken)) if broken.frames_follow => {
                Some("and sound frames follow".to_owned())
            }
            (None, Some(_)) if follow => Some("and later journals follow".to_owned()),
            (None, Some(_)) if self.role == Role::Frozen => {
                Some("in a layer that is never written".to_owned())
            }
            _ => None,
        };
        match (reason, broken) {
            (Some(reason), _) => {
                let what = format!("{why} at byte {end}, {reason}");
                let finding = Finding::damage(Code::Journal, what).file(at);
                self.out.harmed(finding, Harm::JournalCut(generation, end));
            }
            (None, Some(broken)) if self.role == Role::Top => {
                let what = format!(
                    "ends in a torn append, {why} at byte {end}: the next opening cuts {} bytes",
                    broken.cut_bytes
                );
                self.out
                    .findings
                    .push(Finding::note(Code::JournalTail, what).file(at));
            }
            _ => {}
        }
    }

    fn leftovers(&mut self, first: Option<u64>, last: u64, files: &Files) {
        let tables = files.tables.iter().filter(|n| Some(**n) != first);
        let counts = first.unwrap_or(0)..=last;
        let journals = files.journals.iter().filter(|n| !counts.contains(*n));
        let rubbish = tables
            .map(|n| table::file_name(*n))
            .chain(journals.map(|n| journal::file_name(*n)))
            .chain(files.stages.iter().map(PathBuf::from));
        for name in rubbish {
            let at = self.media.describe(&name);
            let what = "is left of a checkpoint that was cut short";
            self.out
                .findings
                .push(Finding::note(Code::Leftover, what).file(at));
            self.out.leftovers.push(name);
        }
        for name in &files.others {
            let text = name.to_string_lossy();
            let finding = match &*text {
                OBJECTS_DIR | SOUND_FILE => continue,
                text if text.starts_with("cut.") => {
                    Finding::note(Code::Kept, "bytes that an opening cut off a journal")
                }
                _ => Finding::note(Code::Leftover, "is no file of a layer").beyond_repair(),
            };
            let at = self.media.describe(Path::new(name));
            self.out.findings.push(finding.file(at));
        }
    }
}

/// Compares what a table's header says with its records; reads all of them.
fn facts_problem(table: &Table) -> Result<Option<(Code, String)>, StoreError> {
    let facts = *table.facts();
    let (mut inodes, mut dentries) = (0u64, 0u64);
    let (mut next_ino, mut next_object) = (0u64, 0u64);
    let mut saw_object = |id: ObjectId| {
        if id.layer == facts.layer {
            next_object = next_object.max(id.number.saturating_add(1));
        }
    };
    for item in table.walk_inodes()? {
        let (ino, word) = item?;
        inodes += 1;
        next_ino = next_ino.max(ino.0.saturating_add(1));
        if let crate::backstore::delta::InodeWord::Is(rec) = word
            && let Content::Object(id) | Content::Extents { own: id, .. } = rec.content
        {
            saw_object(id);
        }
    }
    for item in table.walk_extents()? {
        for (_, source) in item?.1.values() {
            if let ExtentSource::Object(id) = source {
                saw_object(*id);
            }
        }
    }
    for item in table.walk_dentries(None)? {
        if let (_, Dentry::Present { ino, .. }) = item? {
            next_ino = next_ino.max(ino.0.saturating_add(1));
        }
        dentries += 1;
    }
    table.devices()?;
    for number in table.orphans()? {
        next_object = next_object.max(number.saturating_add(1));
    }
    Ok(
        if next_ino > facts.next_ino && next_ino > Ino::FIRST_NEW.0 {
            let what = format!(
                "inode number {} is in use, and {} would be given out next",
                next_ino - 1,
                facts.next_ino
            );
            Some((Code::NumberReuse, what))
        } else if next_object > facts.next_object {
            let what = format!(
                "object number {} is in use, and {} would be given out next",
                next_object - 1,
                facts.next_object
            );
            Some((Code::NumberReuse, what))
        } else if (inodes, dentries) != (facts.inodes, facts.dentries) {
            let what = format!(
                "the header says {} inodes and {} names, the table has {inodes} and {dentries}",
                facts.inodes, facts.dentries
            );
            Some((Code::TableFacts, what))
        } else {
            None
        },
    )
}
