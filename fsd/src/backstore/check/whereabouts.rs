//! Where in the branch the inodes of findings are. Names are not kept while records are checked, so
//! this looks for them once more, and only when there is something to tell.

use std::collections::HashMap;

use super::records::Problem;
use crate::backstore::error::StoreError;
use crate::backstore::stack::{Records, Stack};
use crate::core::record::Dentry;
use crate::core::types::{Ino, Name};

/// Says in the findings where in the branch they are.
pub fn describe(stack: &Stack, problems: &mut [Problem]) -> Result<(), StoreError> {
    let mut wanted: HashMap<Ino, Option<(Ino, Name)>> = HashMap::new();
    for finding in problems.iter().filter_map(|p| p.finding.as_ref()) {
        if let Some(ino) = finding.ino {
            wanted.insert(ino, None);
        }
    }
    // A round for each level at most; the last one finds nothing new.
    while wanted.values().any(Option::is_none) {
        let mut above = Vec::new();
        stack.each_dentry(&mut |dir, name, dentry| {
            if let Dentry::Present { ino, .. } = dentry
                && let Some(place @ None) = wanted.get_mut(&ino)
            {
                *place = Some((dir, name.clone()));
                above.push(dir);
            }
            Ok(())
        })?;
        if above.is_empty() {
            break;
        }
        wanted.retain(|_, place| place.is_some());
        for dir in above {
            wanted.entry(dir).or_insert(None);
        }
    }
    for problem in problems {
        let Some(finding) = &mut problem.finding else {
            continue;
        };
        let Some(ino) = finding.ino else { continue };
        let path = path_of(&wanted, ino);
        finding.place = match (path, finding.place.take()) {
            (Some(mut path), Some(name)) => {
                path.push(b'/');
                path.extend(name);
                Some(path)
            }
            (path, name) => path.or(name),
        };
    }
    Ok(())
}

/// The path of an inode, as far as it is known to lead to the root; the root's is empty.
fn path_of(known: &HashMap<Ino, Option<(Ino, Name)>>, ino: Ino) -> Option<Vec<u8>> {
    let mut parts: Vec<&Name> = Vec::new();
    let mut at = ino;
    while at != Ino::ROOT {
        let (dir, name) = known.get(&at)?.as_ref()?;
        // A loop is longer than anything else.
        if parts.len() > known.len() {
            return None;
        }
        parts.push(name);
        at = *dir;
    }
    let mut out = Vec::new();
    for part in parts.iter().rev() {
        out.push(b'/');
        out.extend_from_slice(part.as_bytes());
    }
    Some(out)
}
