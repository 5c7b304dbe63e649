//! The two halves of a checkpoint: build the table of a layer unseen, then make it the one that
//! counts. `LiveBranch::checkpoint` calls them and keeps the state in memory in step.

use std::collections::BTreeSet;
use std::path::Path;

use super::delta::InodeWord;
use super::error::StoreError;
use super::journal::{Journal, JournalHeader};
use super::layer::LayerView;
use super::media::Media;
use super::stack::Lower;
use super::table::{self, Table, TableContent, TableFacts};

/// Why there is no new generation in memory.
pub struct Unpublished {
    /// What went wrong.
    pub error: StoreError,
    /// Whether the new one may nevertheless be what the next opening finds.
    pub published: bool,
}

impl From<StoreError> for Unpublished {
    fn from(error: StoreError) -> Self {
        Unpublished {
            error,
            published: false,
        }
    }
}

/// Builds and syncs the table of one layer in a stage file.
pub fn write_table(
    media: &dyn Media,
    stage: &Path,
    facts: TableFacts,
    top: &LayerView,
    lower: Lower<'_>,
    orphans: &BTreeSet<u64>,
) -> Result<(), Unpublished> {
    // "Gone" needs saying only where something below says otherwise.
    let inodes = top.walk_inodes()?.filter_map(|item| match item {
        Ok((ino, InodeWord::Gone)) => match lower.inode(ino) {
            Ok(Some(InodeWord::Is(_))) => Some(Ok((ino, InodeWord::Gone))),
            Ok(_) => None,
            Err(e) => Some(Err(e)),
        },
        other => Some(other),
    });
    let extents = top.walk_extents()?.filter_map(|item| match item {
        Ok((ino, map)) if map.is_empty() => match lower.extents(ino) {
            Ok(Some(below)) if !below.is_empty() => Some(Ok((ino, map))),
            Ok(_) => None,
            Err(e) => Some(Err(e)),
        },
        other => Some(other),
    });
    let content = TableContent {
        inodes: Box::new(inodes),
        dentries: top.walk_dentries()?,
        extents: Box::new(extents),
        devices: &top.devices()?,
        orphans,
        merges: &[],
    };
    Ok(table::build(media, stage, facts, content)?)
}

/// Makes the next journal, then the staged table the one that counts.
pub fn publish(
    media: &dyn Media,
    stage: &Path,
    facts: TableFacts,
) -> Result<(Table, Journal), Unpublished> {
    let here = Path::new("");
    let header = JournalHeader {
        layer: facts.layer,
        generation: facts.generation,
        first_seq: facts.next_seq,
    };
    let journal = Journal::create(media, header)?;
    journal.sync_handle().sync()?;
    media
        .sync_dir(here)
        .map_err(|e| StoreError::io("sync", media.describe(here), e))?;
    let name = table::file_name(facts.generation);
    media
        .rename(stage, &name, true)
        .map_err(|e| StoreError::io("rename", media.describe(&name), e))?;
    let published = |error| Unpublished {
        error,
        published: true,
    };
    media
        .sync_dir(here)
        .map_err(|e| published(StoreError::io("sync", media.describe(here), e)))?;
    let table = Table::open(media, facts.layer, facts.generation).map_err(published)?;
    Ok((table, journal))
}
