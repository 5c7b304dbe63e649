//! Loading the layers of a branch or snapshot: from the newest merged table on, each checked for what
//! would make it other than it was written.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::branch;
use super::error::StoreError;
use super::journal;
use super::layer::{Content, LayerView, Tail};
use super::media::Media;
use super::merged::Merged;
use super::meta::BranchInfo;
use super::stack::{Lower, Stack};
use super::store::{Store, layer_dir};
use super::within::Within;
use crate::core::record::LayerId;

/// Where the loading of a stack begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Floor {
    /// At its newest merged table, if there is one.
    Merged,
    /// At the lowest layer.
    None,
}

/// Frozen layers of a stack.
struct Loaded {
    floor: Option<Arc<Merged>>,
    layers: Vec<Arc<LayerView>>,
}

impl Store {
    /// The stack of a branch, and where its own journal ends.
    pub(super) fn load_stack(
        &self,
        info: &BranchInfo,
        floor: Floor,
    ) -> Result<(Stack, Tail), StoreError> {
        let Some((top, frozen)) = info.layers.split_last() else {
            return Err(StoreError::Invalid("a branch without layers"));
        };
        let Loaded { floor, mut layers } =
            self.load_frozen_layers(frozen, floor, Content::Apply)?;
        // Its owner asks for it all the time.
        let dir = layer_dir(*top);
        let media = self.media.sub(&dir).map_err(|e| self.no_layer(&dir, e))?;
        let below = Lower {
            floor: floor.as_deref(),
            layers: &layers,
        };
        let (view, tail) = LayerView::load(media, *top, below)?;
        layers.push(Arc::new(view));
        Ok((Stack::new(floor, layers)?, tail))
    }

    /// The stack of layers that are all frozen.
    pub(super) fn load_frozen(&self, ids: &[LayerId], floor: Floor) -> Result<Stack, StoreError> {
        let Loaded { floor, layers } = self.load_frozen_layers(ids, floor, Content::Apply)?;
        Stack::new(floor, layers)
    }

    /// Refuses layers, lowest first, of which a branch could not be opened. Reads what an opening
    /// would, and makes nothing of it.
    pub(super) fn must_open(&self, ids: &[LayerId]) -> Result<(), StoreError> {
        self.load_frozen_layers(ids, Floor::Merged, Content::Skim)
            .map(drop)
    }

    /// Loads frozen layers, lowest first, which must be whole: from the newest merged table on, where
    /// that is wanted and there is one.
    fn load_frozen_layers(
        &self,
        ids: &[LayerId],
        floor: Floor,
        content: Content,
    ) -> Result<Loaded, StoreError> {
        self.must_have(ids)?;
        let merged = match floor {
            Floor::Merged => self.newest_merged(ids),
            Floor::None => None,
        };
        let above = merged.as_ref().map_or(0, |merged| merged.ids().len());
        let mut layers: Vec<Arc<LayerView>> = Vec::with_capacity(ids.len() - above + 1);
        for id in &ids[above..] {
            let media: Arc<dyn Media> = Arc::new(Within::new(&self.media, layer_dir(*id)));
            let below = Lower {
                floor: merged.as_deref(),
                layers: &layers,
            };
            let (layer, tail) = LayerView::load_as(media, *id, below, content)?;
            self.must_be_whole(&*layer.media, &tail)?;
            layers.push(Arc::new(layer));
        }
        let floor = merged;
        Ok(Loaded { floor, layers })
    }

    /// The merged table of the highest of these layers that has one.
    fn newest_merged(&self, ids: &[LayerId]) -> Option<Arc<Merged>> {
        (2..=ids.len()).rev().find_map(|n| {
            match Merged::open(&self.media, &ids[..n]) {
                Ok(found) => found.map(Arc::new),
                Err(e) => {
                    // What it says the layers below say too.
                    tracing::warn!(error = %e, "a merged table is left out");
                    None
                }
            }
        })
    }

    pub(super) fn no_layer(&self, dir: &Path, e: io::Error) -> StoreError {
        match e.kind() {
            io::ErrorKind::NotFound => {
                StoreError::damaged(self.media.describe(dir), "the layer is missing")
            }
            _ => self.io("open", dir, e),
        }
    }

    /// Refuses the journal of a frozen layer that ends in a bad frame: it is no torn append.
    pub(super) fn must_be_whole(&self, media: &dyn Media, tail: &Tail) -> Result<(), StoreError> {
        branch::check_sound(media, tail)?;
        let Some(broken) = &tail.broken else {
            return Ok(());
        };
        let dir = layer_dir(tail.header.layer);
        let path = dir.join(journal::file_name(tail.header.generation));
        let what = format!("{} at byte {}", broken.why, broken.offset);
        Err(StoreError::damaged(self.media.describe(&path), what))
    }
}
