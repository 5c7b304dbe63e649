//! [`Forest`]: all layers that branches and snapshots stand on, and what is seen of each from any of
//! them. A word of a layer counts where a stack ends on it, or above it with no other word between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::backstore::delta::InodeWord;
use crate::backstore::error::StoreError;
use crate::backstore::layer::LayerView;
use crate::backstore::media::Media;
use crate::backstore::stack::Lower;
use crate::backstore::store::{Store, layer_dir};
use crate::backstore::within::Within;
use crate::core::record::{Content, ExtentSource, LayerId, ObjectId};
use crate::core::types::Ino;

/// Layers, each on the one below it.
#[derive(Debug, Default)]
pub struct Forest {
    nodes: Vec<Node>,
    index: BTreeMap<LayerId, usize>,
    /// Layers of stacks that could not be read: what these need is not known.
    unknown: BTreeSet<LayerId>,
}

#[derive(Debug)]
struct Node {
    view: Arc<LayerView>,
    below: Option<usize>,
    /// Stacks that end here.
    ends: u64,
}

/// Where a layer is among all, so that "above" is a comparison.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    first: usize,
    last: usize,
    /// Stacks that end on it or above it.
    ends: u64,
}

/// One word of a layer that some stack shows: the inode it is about, the objects it names.
#[derive(Debug)]
pub struct Shown {
    /// The layer that has the word.
    pub layer: LayerId,
    /// The inode.
    pub ino: Ino,
    /// Objects it needs.
    pub objects: Vec<ObjectId>,
}

impl Forest {
    /// Adds a stack, lowest layer first. `is_live`: the last one may be written meanwhile.
    ///
    /// Errors: why it cannot be read; the layers of it count as unknown then.
    pub fn add(&mut self, store: &Store, ids: &[LayerId], has_top: bool) -> Result<(), StoreError> {
        let added = self.try_add(store, ids, has_top);
        if added.is_err() {
            self.unknown.extend(ids);
        }
        added
    }

    fn try_add(&mut self, store: &Store, ids: &[LayerId], has_top: bool) -> Result<(), StoreError> {
        let mut below: Option<usize> = None;
        let mut views: Vec<Arc<LayerView>> = Vec::with_capacity(ids.len());
        for (depth, id) in ids.iter().enumerate() {
            let at = match self.index.get(id) {
                Some(at) if self.nodes[*at].below == below => *at,
                Some(_) => {
                    let at = store.media.describe(&layer_dir(*id));
                    return Err(StoreError::damaged(at, "lies on different layers"));
                }
                None => {
                    let media: Arc<dyn Media> = Arc::new(Within::new(&store.media, layer_dir(*id)));
                    let lower = Lower {
                        floor: None,
                        layers: &views,
                    };
                    let (view, tail) = LayerView::load(media, *id, lower)?;
                    if !(has_top && depth + 1 == ids.len()) {
                        store.must_be_whole(&*view.media, &tail)?;
                    }
                    self.nodes.push(Node {
                        view: Arc::new(view),
                        below,
                        ends: 0,
                    });
                    self.index.insert(*id, self.nodes.len() - 1);
                    self.nodes.len() - 1
                }
            };
            views.push(self.nodes[at].view.clone());
            below = Some(at);
        }
        if let Some(at) = below {
            self.nodes[at].ends += 1;
        }
        Ok(())
    }

    /// Whether all that needs the layer is known.
    pub fn knows(&self, id: LayerId) -> bool {
        self.index.contains_key(&id) && !self.unknown.contains(&id)
    }

    /// A layer that was read.
    pub fn view(&self, id: LayerId) -> Option<&Arc<LayerView>> {
        self.index.get(&id).map(|at| &self.nodes[*at].view)
    }

    fn spans(&self) -> Vec<Span> {
        let mut above: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        let mut todo = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            match node.below {
                Some(below) => above[below].push(at),
                None => todo.push((at, false)),
            }
        }
        let mut spans = vec![Span::default(); self.nodes.len()];
        let mut next = 0;
        while let Some((at, done)) = todo.pop() {
            if done {
                spans[at].last = next;
                let of_above: u64 = above[at].iter().map(|up| spans[*up].ends).sum();
                spans[at].ends = self.nodes[at].ends + of_above;
            } else {
                spans[at].first = next;
                next += 1;
                todo.push((at, true));
                todo.extend(above[at].iter().map(|up| (*up, false)));
            }
        }
        spans
    }

    /// Calls `f` for each word with objects that some stack shows. `each`: called per record read.
    pub fn shown(
        &self,
        each: &mut dyn FnMut(),
        f: &mut dyn FnMut(Shown),
    ) -> Result<(), StoreError> {
        let spans = self.spans();
        // Of each inode the words of all layers, lowest first; records and extents hide only their
        // own kind, a record that says "gone" comes with an empty map.
        let (mut records, mut extents) = (Vec::new(), Vec::new());
        for (at, node) in self.nodes.iter().enumerate() {
            for item in node.view.walk_inodes()? {
                let (ino, word) = item?;
                let object = match &word {
                    InodeWord::Is(rec) => match rec.content {
                        Content::Object(id) | Content::Extents { own: id, .. } => Some(id),
                        Content::Empty | Content::Base => None,
                    },
                    InodeWord::Gone => None,
                };
                records.push((ino, spans[at].first, at, Vec::from_iter(object)));
                each();
            }
            for item in node.view.walk_extents()? {
                let (ino, map) = item?;
                let objects: BTreeSet<ObjectId> = map
                    .values()
                    .filter_map(|(_, source)| match source {
                        ExtentSource::Object(id) => Some(*id),
                        ExtentSource::Zero => None,
                    })
                    .collect();
                let objects = objects.into_iter().collect::<Vec<_>>();
                extents.push((ino, spans[at].first, at, objects));
                each();
            }
        }
        for mut words in [records, extents] {
            words.sort_unstable_by_key(|(ino, first, ..)| (*ino, *first));
            let mut rest = words.into_iter().peekable();
            while let Some((ino, ..)) = rest.peek() {
                let ino = *ino;
                let group = std::iter::from_fn(|| rest.next_if(|word| word.0 == ino));
                self.shown_of_one(
                    &spans,
                    group.map(|(_, _, at, objects)| (at, objects)),
                    ino,
                    f,
                );
            }
        }
        Ok(())
    }

    /// Of the words on one inode, by layer from below, those that some stack shows.
    fn shown_of_one(
        &self,
        spans: &[Span],
        words: impl Iterator<Item = (usize, Vec<ObjectId>)>,
        ino: Ino,
        f: &mut dyn FnMut(Shown),
    ) {
        let mut words: Vec<(usize, Vec<ObjectId>, u64)> = words
            .map(|(at, objects)| (at, objects, spans[at].ends))
            .collect();
        // Those that the present one may lie on.
        let mut open: Vec<usize> = Vec::new();
        for i in 0..words.len() {
            let span = spans[words[i].0];
            while open
                .last()
                .is_some_and(|o| spans[words[*o].0].last <= span.first)
            {
                open.pop();
            }
            if let Some(below) = open.last() {
                // From there on up, this one hides it.
                words[*below].2 -= span.ends;
            }
            open.push(i);
        }
        for (at, objects, ends) in words {
            if ends > 0 && !objects.is_empty() {
                let layer = self.nodes[at].view.id;
                f(Shown {
                    layer,
                    ino,
                    objects,
                });
            }
        }
    }
}
