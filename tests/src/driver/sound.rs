//! Whether what a [`CoreDriver`] leaves on disk is sound, at any moment.

use std::path::Path;

use agentfs_fsd::backstore::Store;
use agentfs_fsd::backstore::check::{Code, Finding, Level};

use super::CoreDriver;

impl CoreDriver {
    /// What a check of the store has against it, live or not; nothing, after whatever steps.
    #[must_use]
    pub fn store_problems(&self) -> Vec<Finding> {
        let report = self.store.check(&[], &mut |_, _, _| {}).expect("a check");
        let damage = |finding: &Finding| finding.level == Level::Damage;
        report.left.into_iter().filter(damage).collect()
    }

    /// What a check has against the branch as it would be had it been killed after any one of the
    /// frames in its journal. The bytes of files are those of now, so what hangs on them is left out.
    pub fn journal_problems(&self, scratch: &Path) -> Vec<String> {
        const HEADER_BYTES: usize = 40;
        const FRAME_HEADER_BYTES: usize = 16;
        let copy = |from: &str, to: &Path| {
            std::fs::create_dir_all(to.parent().expect("a parent")).expect("mkdir");
            std::fs::copy(self.store.path().join(from), to).expect("copy");
        };
        for file in ["format", "branches/model/branch.json"] {
            copy(file, &scratch.join(file));
        }
        let info = self.store.branch(&self.branch).expect("the branch");
        let layer = format!("layers/{:016x}", info.layers[0].0);
        let mut newest = 0;
        for entry in std::fs::read_dir(self.store.path().join(&layer)).expect("a layer") {
            let name = entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8");
            let journal = name
                .strip_prefix("journal.")
                .and_then(|n| n.parse::<u64>().ok());
            newest = newest.max(journal.unwrap_or(0));
            if journal.is_some() || name.starts_with("table.") {
                let file = format!("{layer}/{name}");
                copy(&file, &scratch.join(&file));
            }
        }
        let path = scratch.join(format!("{layer}/journal.{newest}"));
        let bytes = std::fs::read(&path).expect("the journal");
        let (mut ends, mut at) = (vec![HEADER_BYTES], HEADER_BYTES);
        while let Some(len) = bytes.get(at..at + 4) {
            let len: [u8; 4] = len.try_into().expect("four bytes");
            at += FRAME_HEADER_BYTES + u32::from_le_bytes(len) as usize;
            ends.push(at);
        }
        let file = std::fs::File::options()
            .write(true)
            .open(&path)
            .expect("open");
        let store = Store::open(scratch).expect("the copy").expect("a store");
        let mut out = Vec::new();
        for end in ends.into_iter().rev() {
            file.set_len(end as u64).expect("truncate");
            let report = store.check(&[], &mut |_, _, _| {}).expect("a check");
            let about_bytes = [
                Code::ObjectMissing,
                Code::ObjectSize,
                Code::Extents,
                Code::ObjectLeak,
            ];
            let counts = |f: &&Finding| f.level == Level::Damage && !about_bytes.contains(&f.code);
            out.extend(
                report
                    .left
                    .iter()
                    .filter(counts)
                    .map(|f| format!("at {end}: {f:?}")),
            );
        }
        out
    }
}
