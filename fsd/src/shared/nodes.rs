//! [`Nodes`]: which node of the mount stands for which inode of which branch.
//!
//! A directory's node is a *place*, a name in another one, and knows for each branch the inode that it
//! has there: the kernel keeps one entry for a name, and whoever works in a directory loses his when a
//! neighbour is told of another node under its name. Everything else has a node per branch, so that
//! two branches never meet in one page cache.
//!
//! The kernel marks a removed directory dead, and takes a moved one along, for all branches at once.
//! So a branch that removes or moves a directory which others know gets a node of its own for it first
//! ([`Nodes::split`]). Pure bookkeeping: calls no core; the references that a core must be given back
//! are in the answers.

use std::collections::{BTreeMap, HashMap};

use crate::bind::View;
use crate::core::types::{Ino, Kind, Name};

#[cfg(test)]
mod tests;

/// The number of a node: what the kernel, and stat(2), know it by.
pub type NodeId = u64;

/// The root of the mount.
pub const ROOT: NodeId = 1;
/// Numbers from here on are made from a branch's id and an inode of it; all others are inodes'.
const MIXED: u64 = 1 << 62;
/// Numbers from here on are given out one by one: to directories that a branch takes away.
const APART: u64 = 1 << 63;

/// An inode of a branch, as its core knows it.
pub type Held = (View, Ino);

/// Where a directory is.
pub type Place = (NodeId, Name);

/// The table.
#[derive(Debug, Default)]
pub struct Nodes {
    all: HashMap<NodeId, Node>,
    places: HashMap<Place, NodeId>,
    files: HashMap<Held, NodeId>,
    /// Ids of branches, by view.
    seeds: BTreeMap<View, u64>,
    /// How many numbers from [`APART`] on were given out.
    apart: u64,
}

#[derive(Debug)]
enum Node {
    Dir(Dir),
    File { held: Held, lookups: u64 },
}

#[derive(Debug, Default)]
struct Dir {
    lookups: u64,
    /// Nodes whose place is in this one.
    children: u32,
    place: Option<Place>,
    inos: BTreeMap<View, Ino>,
    /// The nodes of branches that are about to take their directory away from here.
    split: BTreeMap<View, NodeId>,
    /// It is one of those of another directory, and kept for the lookup that is to find it: the kernel
    /// forgets a node once before that, when it finds that its entry leads elsewhere.
    is_apart: bool,
}

/// What a node stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// This inode, on the branch asked for.
    Dir(Ino),
    /// A directory that the branch has not been asked for yet: to be found by these names from an
    /// inode that it knows.
    Unseen(Ino, Vec<(NodeId, Name)>),
    /// A file of one branch.
    File(Held),
}

/// The node of a directory that is to be removed or moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// None that the kernel knows, or one that is this branch's alone.
    Free,
    /// Others know it: split it first.
    Shared,
}

impl Nodes {
    /// Adds a branch, whose root directory is `root`.
    pub fn add_view(&mut self, view: View, seed: u64, root: Ino) {
        self.seeds.insert(view, seed);
        let node = self
            .all
            .entry(ROOT)
            .or_insert_with(|| Node::Dir(Dir::default()));
        if let Node::Dir(dir) = node {
            // The kernel has the root without having looked it up.
            dir.lookups = 1;
            dir.inos.insert(view, root);
        }
    }

    /// What `node` stands for on the branch `view`. `None`: nothing, or no longer.
    pub fn get(&self, view: View, node: NodeId) -> Option<Known> {
        let mut names = Vec::new();
        let mut at = node;
        loop {
            match self.all.get(&at)? {
                Node::File { held, .. } => return (at == node).then_some(Known::File(*held)),
                Node::Dir(dir) => {
                    if let Some(ino) = dir.inos.get(&view) {
                        names.reverse();
                        return Some(match names.is_empty() {
                            true => Known::Dir(*ino),
                            false => Known::Unseen(*ino, names),
                        });
                    }
                    let (parent, name) = dir.place.as_ref()?;
                    names.push((at, name.clone()));
                    at = *parent;
                }
            }
        }
    }

    /// The file that `node` is, of whichever branch; `Some(None)` for a directory.
    pub fn file(&self, node: NodeId) -> Option<Option<Held>> {
        Some(match self.all.get(&node)? {
            Node::File { held, .. } => Some(*held),
            Node::Dir(_) => None,
        })
    }

    /// Notes what the branch has at a directory's place. Gives the reference that is one too many.
    pub fn learn(&mut self, view: View, node: NodeId, ino: Ino) -> Option<Held> {
        match self.all.get_mut(&node) {
            Some(Node::Dir(dir)) => dir.inos.insert(view, ino).map(|old| (view, old)),
            _ => Some((view, ino)),
        }
    }

    /// The node for what was found on a branch under a name, one lookup the richer. Takes over a
    /// reference to the inode; gives the one that is too many.
    pub fn found(
        &mut self,
        view: View,
        place: Place,
        ino: Ino,
        kind: Kind,
    ) -> (NodeId, Option<Held>) {
        if kind != Kind::Dir {
            return self.found_file((view, ino));
        }
        let Some(at) = self.places.get(&place).copied() else {
            return (self.new_dir(view, place, ino), None);
        };
        let own = match self.all.get(&at) {
            Some(Node::Dir(dir)) => dir.split.get(&view).copied(),
            _ => None,
        };
        let id = own
            .filter(|own| self.ino(view, *own) == Some(ino))
            .unwrap_or(at);
        let spare = self.learn(view, id, ino);
        if let Some(Node::Dir(dir)) = self.all.get_mut(&id) {
            dir.lookups += 1;
        }
        (id, spare)
    }

    fn found_file(&mut self, held: Held) -> (NodeId, Option<Held>) {
        if let Some(id) = self.files.get(&held).copied()
            && let Some(Node::File { lookups, .. }) = self.all.get_mut(&id)
        {
            *lookups += 1;
            return (id, Some(held));
        }
        let id = self.free(self.mixed(held));
        self.files.insert(held, id);
        self.all.insert(id, Node::File { held, lookups: 1 });
        (id, None)
    }

    fn new_dir(&mut self, view: View, place: Place, ino: Ino) -> NodeId {
        let id = self.number_of_dir(view, ino);
        let dir = Dir {
            lookups: 1,
            inos: BTreeMap::from([(view, ino)]),
            ..Dir::default()
        };
        self.all.insert(id, Node::Dir(dir));
        self.put(id, place);
        id
    }

    /// An inode's own number, which a directory of the base has on every branch.
    fn number_of_dir(&self, view: View, ino: Ino) -> NodeId {
        match self.all.contains_key(&ino.0) || ino.0 <= ROOT {
            false => ino.0,
            true => self.free(self.mixed((view, ino))),
        }
    }

    /// A number that the same inode of the same branch has on every mount. (splitmix64)
    fn mixed(&self, (view, ino): Held) -> NodeId {
        let seed = self.seeds.get(&view).copied().unwrap_or_default();
        let mut x = seed ^ ino.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        MIXED | (x ^ (x >> 31)) >> 2
    }

    fn free(&self, mut id: NodeId) -> NodeId {
        while self.all.contains_key(&id) {
            id = MIXED | id.wrapping_add(1) & (MIXED - 1);
        }
        id
    }

    /// The number that a listing shows: of the node, if there is one, else the one it is likely to get.
    pub fn shown(&self, view: View, place: &Place, ino: Ino, kind: Kind) -> NodeId {
        match kind {
            Kind::Dir => self.places.get(place).copied().unwrap_or(ino.0),
            _ => {
                let id = self.files.get(&(view, ino)).copied();
                id.unwrap_or_else(|| self.mixed((view, ino)))
            }
        }
    }

    /// The node above a directory; of the root, itself.
    pub fn parent(&self, node: NodeId) -> NodeId {
        match self.all.get(&node) {
            Some(Node::Dir(Dir {
                place: Some((parent, _)),
                ..
            })) => *parent,
            _ => ROOT,
        }
    }

    fn ino(&self, view: View, node: NodeId) -> Option<Ino> {
        match self.all.get(&node) {
            Some(Node::Dir(dir)) => dir.inos.get(&view).copied(),
            _ => None,
        }
    }

    /// Whether the branch may remove or move its directory `ino` at `place`.
    fn turn(&self, view: View, place: &Place, ino: Ino) -> Turn {
        let Some(Node::Dir(dir)) = self.places.get(place).and_then(|at| self.all.get(at)) else {
            return Turn::Free;
        };
        let own = dir.split.get(&view);
        let is_apart = own.is_some_and(|own| self.ino(view, *own) == Some(ino));
        match is_apart || dir.inos.keys().all(|other| *other == view) {
            true => Turn::Free,
            false => Turn::Shared,
        }
    }

    /// Gives the branch a node of its own for its directory at `place`, which the next lookup finds.
    /// Takes over a reference to the inode; gives those that are too many.
    pub fn split(&mut self, view: View, place: &Place, ino: Ino) -> Vec<Held> {
        let Some(at) = self.places.get(place).copied() else {
            return vec![(view, ino)];
        };
        self.apart += 1;
        let id = APART | self.apart;
        let Some(Node::Dir(dir)) = self.all.get_mut(&at) else {
            return vec![(view, ino)];
        };
        let mut held = Vec::new();
        if let Some(old) = dir.split.insert(view, id) {
            self.let_go(old, &mut held);
        }
        let own = Dir {
            inos: BTreeMap::from([(view, ino)]),
            is_apart: true,
            ..Dir::default()
        };
        self.all.insert(id, Node::Dir(own));
        held
    }

    /// A node that was apart is no longer kept for a lookup.
    fn let_go(&mut self, own: NodeId, held: &mut Vec<Held>) {
        if let Some(Node::Dir(own)) = self.all.get_mut(&own) {
            own.is_apart = false;
        }
        self.drop_if_idle(own, held);
    }

    /// Takes the branch's nodes out of these places, with the inodes that it has there, unless others
    /// know one of them. The places are free for others from here on. What is left at a place, if others
    /// know it, keeps the branch's inode for whoever works there. References to give back go to `spare`.
    ///
    /// `None`: they are to be split first.
    pub fn take_all(
        &mut self,
        view: View,
        dirs: &[(Place, Ino)],
        spare: &mut Vec<Held>,
    ) -> Option<Vec<Option<NodeId>>> {
        let is_free = |(place, ino): &(Place, Ino)| self.turn(view, place, *ino) == Turn::Free;
        if !dirs.iter().all(is_free) {
            return None;
        }
        let taken = dirs.iter().map(|(place, _)| self.take(view, place, spare));
        Some(taken.collect())
    }

    fn take(&mut self, view: View, place: &Place, spare: &mut Vec<Held>) -> Option<NodeId> {
        let at = self.places.get(place).copied()?;
        let Some(Node::Dir(dir)) = self.all.get_mut(&at) else {
            return None;
        };
        if let Some(own) = dir.split.remove(&view) {
            if let Some(Node::Dir(own)) = self.all.get_mut(&own) {
                own.is_apart = false;
            }
            // It may have stayed for the sake of that one alone.
            self.drop_if_idle(at, spare);
            return Some(own);
        }
        dir.place = None;
        self.places.remove(place);
        self.leave(place.0);
        Some(at)
    }

    /// Undoes [`Nodes::take_all`], after a change that was not made; or puts a moved node where it has come
    /// to be. Where others know another node, that one stays, and the next lookup leads to it.
    pub fn put(&mut self, node: NodeId, place: Place) {
        if self.places.contains_key(&place) {
            return;
        }
        if let Some(Node::Dir(parent)) = self.all.get_mut(&place.0) {
            parent.children += 1;
        }
        if let Some(Node::Dir(dir)) = self.all.get_mut(&node) {
            dir.place = Some(place.clone());
            self.places.insert(place, node);
        }
    }

    /// What the branch had at `place` is gone: whoever works there is nowhere now. Gives the reference.
    pub fn removed(&mut self, view: View, place: &Place) -> Option<Held> {
        let at = self.places.get(place).copied()?;
        match self.all.get_mut(&at) {
            Some(Node::Dir(dir)) => dir.inos.remove(&view).map(|ino| (view, ino)),
            _ => None,
        }
    }

    /// Takes `count` lookups off, and drops the node once nobody refers to it. Gives all the references
    /// that it held.
    pub fn forget(&mut self, node: NodeId, count: u64) -> Vec<Held> {
        match self.all.get_mut(&node) {
            Some(Node::Dir(dir)) => dir.lookups = dir.lookups.saturating_sub(count),
            Some(Node::File { lookups, .. }) => *lookups = lookups.saturating_sub(count),
            None => {}
        }
        let mut held = Vec::new();
        self.drop_if_idle(node, &mut held);
        held
    }

    fn drop_if_idle(&mut self, node: NodeId, held: &mut Vec<Held>) {
        let is_idle = match self.all.get(&node) {
            Some(Node::Dir(dir)) => {
                // One with others apart stays for them: without it they would not be found.
                let is_needed = dir.is_apart || !dir.split.is_empty() || dir.children > 0;
                dir.lookups == 0 && !is_needed && node != ROOT
            }
            Some(Node::File { lookups, .. }) => *lookups == 0,
            None => false,
        };
        if !is_idle {
            return;
        }
        match self.all.remove(&node) {
            Some(Node::File { held: file, .. }) => {
                self.files.remove(&file);
                held.push(file);
            }
            Some(Node::Dir(dir)) => {
                held.extend(dir.inos);
                if let Some(place) = dir.place {
                    self.places.remove(&place);
                    self.leave(place.0);
                    self.drop_if_idle(place.0, held);
                }
            }
            None => {}
        }
    }

    /// Takes a child off a directory. Whoever does so sees to it that an idle one is dropped.
    fn leave(&mut self, parent: NodeId) {
        if let Some(Node::Dir(dir)) = self.all.get_mut(&parent) {
            dir.children = dir.children.saturating_sub(1);
        }
    }
}
