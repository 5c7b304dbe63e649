//! The files that hold bytes: whether a record's object is as it must be, and which objects no
//! record uses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layer::Role;
use super::{Code, Finding};
use crate::backstore::delta::InodeWord;
use crate::backstore::error::StoreError;
use crate::backstore::layer::LayerView;
use crate::backstore::media::{FileFacts, Media};
use crate::backstore::objects;
use crate::backstore::stack::Stack;
use crate::core::record::{Content, ExtentSource, LayerId, ObjectId};

/// Numbers that a finding lists before it only counts.
const LISTED_MAX: usize = 8;

/// `3 objects`, `1 object`.
pub fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What there is of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Its layer is none of the branch's.
    NoLayer,
    /// Not looked at: it is being written, or could not be.
    Unknown,
    /// There is none.
    Missing,
    /// This.
    There(FileFacts),
}

/// Where the objects of a branch's layers are.
#[derive(Debug)]
pub struct Objects {
    layers: BTreeMap<LayerId, (Arc<dyn Media>, bool)>,
    owners: BTreeMap<LayerId, u32>,
}

impl Objects {
    /// Of all layers of a stack. `live`: those of the top one are not looked at.
    pub fn of(stack: &Stack, live: bool) -> Self {
        let top = stack.layers.last().map(|top| top.id);
        let layers = stack
            .layers
            .iter()
            .map(|layer| {
                let is_changing = live && Some(layer.id) == top;
                (layer.id, (layer.media.clone(), is_changing))
            })
            .collect();
        let owners = stack
            .layers
            .iter()
            .filter_map(|layer| Some((layer.id, layer.media.facts(Path::new("")).ok()?.uid)))
            .collect();
        Self { layers, owners }
    }

    /// Looks at one.
    pub fn look(&self, id: ObjectId) -> Looked {
        let Some((media, is_changing)) = self.layers.get(&id.layer) else {
            return Looked::NoLayer;
        };
        if *is_changing {
            return Looked::Unknown;
        }
        match media.facts(&objects::path_of(id.number)) {
            Ok(facts) => Looked::There(facts),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Looked::Missing,
            Err(_) => Looked::Unknown,
        }
    }

    /// The file of one, for messages.
    pub fn path(&self, id: ObjectId) -> PathBuf {
        let path = objects::path_of(id.number);
        match self.layers.get(&id.layer) {
            Some((media, _)) => media.describe(&path),
            None => path,
        }
    }

    /// What is wrong with its owner and mode.
    pub fn access_problem(&self, id: ObjectId, facts: &FileFacts) -> Option<String> {
        if !facts.is_file {
            return Some("is no regular file".into());
        }
        if facts.perm != 0o600 {
            return Some(format!("has mode {:04o}, not 0600", facts.perm));
        }
        let owner = *self.owners.get(&id.layer)?;
        (owner != facts.uid).then(|| format!("belongs to uid {}, its layer to {owner}", facts.uid))
    }
}

/// The objects of one layer by what becomes of them.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// No record uses them, and no opening removes them.
    pub leaked: Vec<u64>,
    /// The next opening removes them: what was open or unfinished when the branch ended.
    pub pending: Vec<u64>,
}

/// Says which objects of a layer nothing names. The layer must be still.
pub fn accounts(view: &LayerView) -> Result<Accounts, StoreError> {
    let mut used = BTreeSet::new();
    let mut add = |id: ObjectId| {
        if id.layer == view.id {
            used.insert(id.number);
        }
    };
    for item in view.walk_inodes()? {
        if let (_, InodeWord::Is(rec)) = item?
            && let Content::Object(id) | Content::Extents { own: id, .. } = rec.content
        {
            add(id);
        }
    }
    for item in view.walk_extents()? {
        for (_, source) in item?.1.values() {
            if let ExtentSource::Object(id) = source {
                add(*id);
            }
        }
    }
    let known = view
        .table
        .as_ref()
        .map_or(1, |table| table.facts().next_object);
    let mut out = Accounts::default();
    for number in objects::list_from(&*view.media, 0)? {
        if used.contains(&number) {
            continue;
        }
        let is_pending = number >= known || view.ledger.orphans.contains(&number);
        match is_pending {
            true => out.pending.push(number),
            false => out.leaked.push(number),
        }
    }
    Ok(out)
}

/// What [`accounts`] amounts to, in words.
pub fn findings(view: &LayerView, role: Role, accounts: &Accounts) -> Vec<Finding> {
    let at = view.media.describe(Path::new(objects::OBJECTS_DIR));
    let list = |numbers: &[u64]| {
        let shown = numbers.iter().take(LISTED_MAX).map(u64::to_string);
        let more = if numbers.len() > LISTED_MAX {
            ", .."
        } else {
            ""
        };
        let n = counted(numbers.len() as u64, "object");
        format!("{n} ({}{more})", shown.collect::<Vec<_>>().join(", "))
    };
    let mut out = Vec::new();
    if !accounts.leaked.is_empty() {
        let what = format!("{} that no record uses", list(&accounts.leaked));
        out.push(Finding::damage(Code::ObjectLeak, what).file(&at));
    }
    if !accounts.pending.is_empty() {
        let what = match role {
            Role::Frozen => format!("{} that were never used", list(&accounts.pending)),
            _ => format!("{} that the next opening removes", list(&accounts.pending)),
        };
        out.push(Finding::note(Code::Leftover, what).file(&at));
    }
    out
}
