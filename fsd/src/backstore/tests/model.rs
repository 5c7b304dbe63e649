//! Random deltas on random branches, against plain maps, with reopening, checkpoints, crashes and
//! branching at random points.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::backstore::LiveBranch;
use crate::backstore::mem::Crash;
use crate::core::record::{ExtentMap, ExtentSource, LayerId, ObjectId};

const EXTENT_SPACE: u64 = 24;

/// What one layer says; extents byte by byte.
#[derive(Clone, Debug, Default)]
struct Layer {
    inodes: BTreeMap<Ino, Option<Arc<InodeRec>>>,
    dentries: BTreeMap<(Ino, Name), Dentry>,
    extents: BTreeMap<Ino, Vec<Option<ExtentSource>>>,
}

/// The layers of a branch, lowest first.
#[derive(Clone, Debug)]
struct Model(Vec<Layer>);

impl Model {
    fn inode(&self, ino: Ino) -> Option<Arc<InodeRec>> {
        self.0
            .iter()
            .rev()
            .find_map(|layer| layer.inodes.get(&ino).cloned())
            .flatten()
    }

    fn extents(&self, ino: Ino) -> Vec<Option<ExtentSource>> {
        let found = self
            .0
            .iter()
            .rev()
            .find_map(|layer| layer.extents.get(&ino).cloned());
        found.unwrap_or_else(|| vec![None; EXTENT_SPACE as usize])
    }

    fn dump(&self) -> Dump {
        let mut inodes = BTreeMap::new();
        let mut dentries = BTreeMap::new();
        for layer in &self.0 {
            inodes.extend(layer.inodes.clone());
            dentries.extend(layer.dentries.clone());
        }
        (
            inodes
                .into_iter()
                .filter_map(|(ino, rec)| Some((ino, rec?)))
                .collect(),
            dentries,
        )
    }

    fn apply(&mut self, delta: &Delta) {
        let before = match delta {
            Delta::PutExtent(ino, ..) => self.extents(*ino),
            _ => Vec::new(),
        };
        let top = self.0.last_mut().unwrap();
        match delta {
            Delta::PutInode(ino, rec) => {
                top.inodes.insert(*ino, Some(rec.clone()));
            }
            Delta::DelInode(ino) => {
                top.inodes.insert(*ino, None);
                top.extents.insert(*ino, vec![None; EXTENT_SPACE as usize]);
            }
            Delta::PutDentry(parent, name, dentry) => {
                top.dentries.insert((*parent, name.clone()), *dentry);
            }
            Delta::DelDentry(parent, name) => {
                top.dentries.remove(&(*parent, name.clone()));
            }
            Delta::PutExtent(ino, offset, len, source) => {
                let mut bytes = before;
                bytes[*offset as usize..(offset + len) as usize].fill(Some(*source));
                top.extents.insert(*ino, bytes);
            }
            Delta::SetExtents(ino, map) => {
                top.extents.insert(*ino, expand(map));
            }
            Delta::Orphan(_) | Delta::PutDevice { .. } => {}
        }
    }

    fn check(&self, records: &dyn Records) {
        assert_eq!(dump(records), self.dump());
        for ino in INOS {
            assert_eq!(records.inode(ino).unwrap(), self.inode(ino));
            assert_eq!(
                expand(&records.extents(ino).unwrap()),
                self.extents(ino),
                "{ino:?}"
            );
            let mut names = BTreeMap::new();
            for layer in &self.0 {
                let of_ino = layer
                    .dentries
                    .iter()
                    .filter(|((parent, _), _)| *parent == ino);
                names.extend(of_ino.map(|((_, name), dentry)| (name.clone(), *dentry)));
            }
            assert_eq!(records.dentries(ino).unwrap(), names);
            for text in NAMES {
                assert_eq!(
                    records.dentry(ino, &name(text)).unwrap(),
                    names.get(&name(text)).copied()
                );
            }
        }
    }

    fn check_live(&self, live: &LiveBranch) {
        self.check(live);
        let lower = Model(self.0[..self.0.len() - 1].to_vec());
        for ino in INOS {
            for text in NAMES {
                let name = name(text);
                let expect = lower
                    .0
                    .iter()
                    .rev()
                    .find_map(|layer| layer.dentries.get(&(ino, name.clone())).copied());
                assert_eq!(live.lower_dentry(ino, &name).unwrap(), expect);
            }
        }
    }
}

fn expand(map: &ExtentMap) -> Vec<Option<ExtentSource>> {
    let mut out = vec![None; EXTENT_SPACE as usize];
    let mut end = 0;
    let mut last = None;
    for (offset, (len, source)) in map {
        assert!(*len > 0 && *offset >= end, "{map:?}");
        assert!(
            *offset > end || end == 0 || last != Some(*source),
            "not joined: {map:?}"
        );
        end = offset + len;
        last = Some(*source);
        out[*offset as usize..end as usize].fill(Some(*source));
    }
    out
}

const INOS: [Ino; 5] = [
    Ino(1),
    Ino(77),
    Ino::FIRST_NEW,
    Ino(Ino::FIRST_NEW.0 + 1),
    Ino(Ino::FIRST_NEW.0 + 2),
];
const NAMES: [&str; 3] = ["a", "b", "a b\u{e9}"];

#[derive(Clone, Debug)]
enum Op {
    Commit(Vec<Delta>),
    Checkpoint,
    /// Closes and opens again.
    Reopen,
    /// Drops, as a kill would, and opens again.
    Kill,
    /// Makes a branch from the present one; goes on with either.
    Branch {
        go_on_with_child: bool,
    },
    /// Goes on with another branch.
    Switch(prop::sample::Index),
}

fn any_delta() -> impl Strategy<Value = Delta> {
    let ino = || prop::sample::select(INOS.to_vec());
    let text = || prop::sample::select(NAMES.to_vec()).prop_map(name);
    let source = || {
        prop_oneof![
            Just(ExtentSource::Zero),
            (1..3u64).prop_map(|number| {
                ExtentSource::Object(ObjectId {
                    layer: LayerId(9),
                    number,
                })
            })
        ]
    };
    let range = || (0..EXTENT_SPACE).prop_flat_map(|at| (Just(at), 1..=EXTENT_SPACE - at));
    let dentry = prop_oneof![
        Just(Dentry::Whiteout),
        ino().prop_map(|ino| Dentry::Present {
            ino,
            kind: Kind::File
        })
    ];
    prop_oneof![
        3 => (ino(), 0..9u64).prop_map(|(ino, size)| Delta::PutInode(ino, record(size))),
        2 => ino().prop_map(Delta::DelInode),
        3 => (ino(), text(), dentry).prop_map(|(p, n, d)| Delta::PutDentry(p, n, d)),
        2 => (ino(), text()).prop_map(|(p, n)| Delta::DelDentry(p, n)),
        3 => (ino(), range(), source())
            .prop_map(|(ino, (offset, len), source)| Delta::PutExtent(ino, offset, len, source)),
        1 => (ino(), range(), source()).prop_map(|(ino, (offset, len), source)| {
            Delta::SetExtents(ino, Arc::new([(offset, (len, source))].into()))
        }),
        1 => ino().prop_map(|ino| Delta::SetExtents(ino, Arc::default())),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => vec(any_delta(), 1..5).prop_map(Op::Commit),
        2 => Just(Op::Checkpoint),
        1 => Just(Op::Reopen),
        1 => Just(Op::Kill),
        1 => any::<bool>().prop_map(|go_on_with_child| Op::Branch { go_on_with_child }),
        1 => any::<prop::sample::Index>().prop_map(Op::Switch),
    ]
}

fn run(ops: Vec<Op>) {
    let (_, store) = new_store();
    make(&store, "b0", None).unwrap();
    let mut models = vec![Model(vec![Layer::default()])];
    let mut at = 0;
    let open = |at: usize| store.open_live(&branch(&format!("b{at}"))).unwrap();
    let mut live = open(at);
    for op in ops {
        match op {
            Op::Commit(deltas) => {
                live.commit(deltas.clone()).unwrap();
                deltas.iter().for_each(|delta| models[at].apply(delta));
            }
            Op::Checkpoint => live.checkpoint().unwrap(),
            Op::Reopen => {
                live.close().unwrap();
                live = open(at);
            }
            Op::Kill => {
                drop(live);
                live = open(at);
            }
            Op::Branch { go_on_with_child } => {
                drop(live);
                let child = models.len();
                make(&store, &format!("b{child}"), Some(&format!("b{at}"))).unwrap();
                models[at].0.push(Layer::default());
                models.push(models[at].clone());
                if go_on_with_child {
                    at = child;
                }
                live = open(at);
            }
            Op::Switch(to) => {
                drop(live);
                at = to.index(models.len());
                live = open(at);
            }
        }
        models[at].check_live(&live);
    }
    for (i, model) in models.iter().enumerate() {
        model.check(&store.read(&branch(&format!("b{i}"))).unwrap());
    }
    drop(live);
    for i in (0..models.len()).rev() {
        open(i).close().unwrap();
    }
    for (i, model) in models.iter().enumerate() {
        model.check(&store.read(&branch(&format!("b{i}"))).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_branch_is_its_deltas(ops in vec(any_op(), 1..25)) {
        run(ops);
    }
}

/// Applying every frame twice gives the same state: replay is idempotent.
#[test]
fn replay_twice_is_replay_once() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = store.open_live(&branch("b")).unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut model = Model(vec![Layer::default()]);
    let mut all = Vec::new();
    for _ in 0..30 {
        let deltas = vec(any_delta(), 1..5)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        live.commit(deltas.clone()).unwrap();
        deltas.iter().for_each(|delta| model.apply(delta));
        all.push(deltas);
    }
    drop(live);
    let mut again = store_on(Arc::new(mem.crash(Crash::Process)))
        .open_live(&branch("b"))
        .unwrap();
    // State deltas: the last frames over again change nothing.
    for deltas in all.iter().skip(all.len() - 1) {
        again.commit(deltas.clone()).unwrap();
    }
    model.check_live(&again);
    let whole: Vec<Delta> = all.concat();
    again.commit(whole).unwrap();
    model.check_live(&again);
}
