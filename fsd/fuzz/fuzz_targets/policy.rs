//! Policy files: any text, from each source. What is parsed can be merged with what is built in, and
//! answers for any path.

#![no_main]

use std::path::{Path, PathBuf};

use agentfs_fuzz::Bytes;
use agentfs_policy::{Context, Profile, Source, merge};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Bytes(data);
    let source = match input.byte() % 2 {
        0 => Source::User,
        _ => Source::Repository,
    };
    let Ok(text) = std::str::from_utf8(input.0) else {
        return;
    };
    let context = Context {
        home: Some(PathBuf::from("/home/u")),
        other_homes: vec![PathBuf::from("/root")],
        workspace: PathBuf::from("/home/u/w"),
    };
    let Ok(profile) = Profile::parse(text, source, "policy.toml", &context) else {
        return;
    };
    let Ok(policy) = merge(vec![profile]) else {
        return;
    };
    for path in [
        "/",
        "/home/u",
        "/home/u/w/.git/config",
        "/etc/passwd",
        "relative",
    ] {
        let _ = policy.access(Path::new(path));
        let _ = policy.why(Path::new(path));
    }
});
