//! POSIX access control lists: their bytes in an extended attribute, and the arithmetic with modes.
//!
//! Pure. The kernel checks access by them; a file system must keep list and mode in step, and hand
//! a directory's default list on to what is made in it. Source: acl(5).

use crate::core::base::Xattrs;
use crate::core::types::{Kind, NewMode};

/// The attribute of the list that governs access.
pub const ACCESS_XATTR: &[u8] = b"system.posix_acl_access";
/// The attribute of the list that entries made in a directory start from.
pub const DEFAULT_XATTR: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 8;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid list: one owner, one owning group, one other, and a mask if anybody else is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// Reads a list from the bytes of its attribute; `None` if they are no valid list.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*head) != VERSION || rest.len() % ENTRY_BYTES != 0 {
            return None;
        }
        let entries: Vec<Entry> = rest
            .chunks_exact(ENTRY_BYTES)
            .map(|e| Entry {
                tag: u16::from_le_bytes([e[0], e[1]]),
                perm: u16::from_le_bytes([e[2], e[3]]),
                id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
            })
            .collect();
        let acl = Self { entries };
        acl.is_valid().then_some(acl)
    }

    fn count(&self, tag: u16) -> usize {
        self.entries.iter().filter(|e| e.tag == tag).count()
    }

    fn is_valid(&self) -> bool {
        let known = USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER;
        let named = self.count(USER) + self.count(GROUP) > 0;
        self.entries
            .iter()
            .all(|e| e.tag & known == e.tag && e.tag.count_ones() == 1 && e.perm < 8)
            && [USER_OBJ, GROUP_OBJ, OTHER]
                .iter()
                .all(|tag| self.count(*tag) == 1)
            && self.count(MASK) <= 1
            && (!named || self.count(MASK) == 1)
            && self.entries.is_sorted_by_key(|e| e.tag)
    }

    /// The bytes of its attribute.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for e in &self.entries {
            bytes.extend_from_slice(&e.tag.to_le_bytes());
            bytes.extend_from_slice(&e.perm.to_le_bytes());
            bytes.extend_from_slice(&e.id.to_le_bytes());
        }
        bytes
    }

    fn get(&self, tag: u16) -> Option<u32> {
        self.entries
            .iter()
            .find(|e| e.tag == tag)
            .map(|e| u32::from(e.perm))
    }

    fn set(&mut self, tag: u16, perm: u32) {
        if let Some(e) = self.entries.iter_mut().find(|e| e.tag == tag) {
            e.perm = (perm & 7) as u16;
        }
    }

    /// The tag that the group bits of the mode stand for: the mask, where there is one.
    fn group_class(&self) -> u16 {
        if self.count(MASK) == 1 {
            MASK
        } else {
            GROUP_OBJ
        }
    }

    /// The nine permission bits the list shows as.
    pub fn mode(&self) -> u32 {
        let bits = |tag| self.get(tag).unwrap_or(0);
        bits(USER_OBJ) << 6 | bits(self.group_class()) << 3 | bits(OTHER)
    }

    /// Whether the mode says all that the list says.
    pub fn is_mode(&self) -> bool {
        self.entries.len() == 3
    }

    /// Takes a new mode over, as chmod(2) does.
    pub fn chmod(&mut self, mode: u32) {
        self.set(USER_OBJ, mode >> 6);
        self.set(self.group_class(), mode >> 3);
        self.set(OTHER, mode);
    }

    /// Whether the list gives somebody who is not the owner all of `want` (bits of rwx): a user that
    /// `is_user` knows, in the groups that `in_group` knows; `None` stands for the file's own group.
    /// Source: posix_acl_permission of the kernel, acl(5).
    pub fn permits<E>(
        &self,
        want: u32,
        is_user: impl Fn(u32) -> bool,
        in_group: impl Fn(Option<u32>) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let mask = self.get(MASK).unwrap_or(7);
        let gives = |e: &Entry, mask: u32| u32::from(e.perm) & mask & want == want;
        let mut in_one = false;
        for e in &self.entries {
            match e.tag {
                USER if is_user(e.id) => return Ok(gives(e, mask)),
                GROUP_OBJ | GROUP => {
                    let id = (e.tag == GROUP).then_some(e.id);
                    if in_group(id)? {
                        in_one = true;
                        if gives(e, 7) {
                            return Ok(gives(e, mask));
                        }
                    }
                }
                OTHER => return Ok(!in_one && gives(e, 7)),
                _ => {}
            }
        }
        Ok(false)
    }

    /// The list for a reader who knows few ids: entries of users and groups are under the id that
    /// `user` and `group` give for theirs, or left out where they give none.
    #[cfg(any(test, feature = "fuse"))]
    pub fn shown(
        &self,
        user: impl Fn(u32) -> Option<u32>,
        group: impl Fn(u32) -> Option<u32>,
    ) -> Acl {
        let show = |e: &Entry| {
            let id = match e.tag {
                USER => user(e.id)?,
                GROUP => group(e.id)?,
                _ => e.id,
            };
            Some(Entry { id, ..*e })
        };
        Acl {
            entries: self.entries.iter().filter_map(show).collect(),
        }
    }

    /// Makes a default list the access list of a new entry, cut down to the `mode` asked for.
    pub fn inherit(&self, mode: u32) -> Acl {
        let mut acl = self.clone();
        let cut = |tag, shift: u32| self.get(tag).unwrap_or(0) & (mode >> shift);
        acl.set(USER_OBJ, cut(USER_OBJ, 6));
        acl.set(self.group_class(), cut(self.group_class(), 3));
        acl.set(OTHER, cut(OTHER, 0));
        acl
    }
}

/// Mode and lists of an entry made in a directory with the attributes `dir`.
///
/// The directory's default list, where there is one, takes the place of the umask.
pub fn for_new_entry(dir: &Xattrs, kind: Kind, mode: NewMode) -> (u32, Xattrs) {
    let perm = mode.perm & 0o7777;
    let mut xattrs = Xattrs::new();
    let default = dir.get(DEFAULT_XATTR).filter(|_| kind != Kind::Symlink);
    let Some((bytes, list)) = default.and_then(|b| Some((b, Acl::parse(b)?))) else {
        let umask = if kind == Kind::Symlink { 0 } else { mode.umask };
        return (perm & !(umask & 0o777), xattrs);
    };
    let access = list.inherit(perm);
    if !access.is_mode() {
        xattrs.insert(ACCESS_XATTR.into(), access.to_bytes().into());
    }
    if kind == Kind::Dir {
        xattrs.insert(DEFAULT_XATTR.into(), bytes.clone());
    }
    (perm & !0o777 | access.mode(), xattrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entries = entries
            .iter()
            .map(|&(tag, perm, id)| Entry { tag, perm, id })
            .collect();
        Acl { entries }.to_bytes()
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn a_list_survives_its_bytes() {
        let bytes = acl(&[
            (1, 6, NONE),
            (2, 7, 1000),
            (4, 4, NONE),
            (16, 5, NONE),
            (32, 0, NONE),
        ]);
        let parsed = Acl::parse(&bytes).unwrap();
        assert_eq!(parsed.to_bytes(), bytes);
        assert_eq!(parsed.mode(), 0o650);
        assert!(!parsed.is_mode());
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let bad: [&[(u16, u16, u32)]; 4] = [
            &[(1, 6, NONE), (4, 4, NONE)],
            &[(1, 6, NONE), (2, 7, 1000), (4, 4, NONE), (32, 0, NONE)],
            &[(1, 9, NONE), (4, 4, NONE), (32, 0, NONE)],
            &[(4, 4, NONE), (1, 6, NONE), (32, 0, NONE)],
        ];
        for entries in bad {
            assert_eq!(Acl::parse(&acl(entries)), None, "{entries:?}");
        }
        assert_eq!(Acl::parse(b"\x02\0\0"), None);
        assert_eq!(Acl::parse(b"\x03\0\0\0"), None);
    }

    #[test]
    fn a_reader_is_shown_the_ids_he_knows() {
        let entries = [
            (1, 6, NONE),
            (2, 7, 1000),
            (2, 4, 1001),
            (4, 0, NONE),
            (8, 1, 50),
            (8, 2, 60),
            (8, 4, 70),
            (16, 7, NONE),
            (32, 0, NONE),
        ];
        let list = Acl::parse(&acl(&entries)).unwrap();
        let shown = list.shown(
            |id| (id == 1001).then_some(id),
            |id| [50, 60].contains(&id).then_some(50),
        );
        let expected = [
            (1, 6, NONE),
            (2, 4, 1001),
            (4, 0, NONE),
            (8, 1, 50),
            (8, 2, 50),
            (16, 7, NONE),
            (32, 0, NONE),
        ];
        assert_eq!(shown.to_bytes(), acl(&expected));
        assert_eq!(Acl::parse(&shown.to_bytes()), Some(shown));
        let none = list.shown(|_| None, |_| None);
        assert_eq!(none.mode(), list.mode());
        assert_eq!(Acl::parse(&none.to_bytes()), Some(none));
    }

    #[test]
    fn a_list_decides_as_acl_5_says() {
        let bytes = acl(&[
            (1, 7, NONE),
            (2, 7, 1000),
            (2, 0, 1001),
            (4, 4, NONE),
            (8, 6, 50),
            (8, 1, 60),
            (16, 5, NONE),
            (32, 2, NONE),
        ]);
        let list = Acl::parse(&bytes).unwrap();
        let may = |uid: u32, groups: &[Option<u32>], want: u32| {
            let member = |id| Ok::<_, ()>(groups.contains(&id));
            list.permits(want, |id| id == uid, member).unwrap()
        };
        // The mask cuts named users and groups, and the owning group.
        assert!(may(1000, &[], 5) && !may(1000, &[], 2));
        assert!(!may(1001, &[Some(50)], 4), "the entry of a user is final");
        assert!(may(1, &[Some(50)], 4) && !may(1, &[Some(50)], 2));
        // Any one group must give all that is wanted.
        assert!(may(1, &[None, Some(60)], 1) && !may(1, &[None, Some(60)], 5));
        // Others: only who is in no group.
        assert!(may(1, &[], 2) && !may(1, &[], 4) && !may(1, &[Some(60)], 2));
    }

    #[test]
    fn chmod_moves_the_mask_and_creation_cuts_it() {
        let bytes = acl(&[
            (1, 7, NONE),
            (2, 7, 1000),
            (4, 5, NONE),
            (16, 7, NONE),
            (32, 5, NONE),
        ]);
        let mut list = Acl::parse(&bytes).unwrap();
        let made = list.inherit(0o640);
        assert_eq!(made.mode(), 0o640);
        list.chmod(0o710);
        assert_eq!((list.mode(), list.get(GROUP_OBJ)), (0o710, Some(5)));
    }
}
