//! What STYLE.md says of the source tree itself: who may import whom, how long a file may be,
//! where `unsafe` may stand, and that no test file is left out of the runs.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that may be longer than 800 lines, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Files that may hold `unsafe`, by how their path ends.
const UNSAFE_FENCE: &[&str] = &[
    "fsd/src/sys.rs",
    "fsd/src/fuse/sys.rs",
    "fsd/src/fuse/ring/sys.rs",
    "launcher/src/sys.rs",
    "launcher/src/proc/clone.rs",
];

fn root() -> PathBuf {
    let dir = match std::env::var_os("AGENTFS_SOURCE_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
    };
    dir.canonicalize().expect("the source tree")
}

/// Every Rust source below the crates: path relative to the root, text.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = ["policy", "fsd", "launcher", "tests", "examples"]
        .iter()
        .map(|d| root.join(d))
        .collect();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("a source directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    todo.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path
                    .strip_prefix(&root)
                    .expect("below the root")
                    .display()
                    .to_string();
                found.push((name, fs::read_to_string(&path).expect("read")));
            }
        }
    }
    assert!(
        found.len() > 30,
        "only {} sources found below {}",
        found.len(),
        root.display()
    );
    found.sort();
    found
}

/// Lines of code: comments and empty lines aside, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with("//"))
}

/// Panics with all complaints.
#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn imports_point_down() {
    // (sources below, words that must not stand there, files excepted)
    let rules: &[(&str, &[&str], &[&str])] = &[
        (
            "policy/src/",
            &["agentfs_fsd", "std::fs", "std::process", "std::net"],
            &[],
        ),
        ("fsd/src/", &["agentfs_policy", "agentfs_tests"], &[]),
        (
            "launcher/src/",
            &["agentfs_tests", "use fuser", "fuser::"],
            &[],
        ),
        (
            "fsd/src/core/",
            &["crate::fuse", "crate::ctl", "fuser", "clap::"],
            &[],
        ),
        (
            "fsd/src/backstore/",
            &["crate::fuse", "crate::ctl", "fuser", "clap::"],
            &[],
        ),
        ("fsd/src/ctl/", &["fuser"], &[]),
        (
            "fsd/src/",
            &["use fuser", "fuser::"],
            &["fsd/src/fuse/", "fsd/src/errno.rs"],
        ),
        ("fsd/src/", &["use clap", "clap::"], &["fsd/src/main.rs"]),
        (
            "launcher/src/",
            &["use clap", "clap::"],
            &[
                "launcher/src/cli.rs",
                "launcher/src/cli/",
                "launcher/src/lib.rs",
            ],
        ),
    ];
    let sources = sources();
    let mut complaints = Vec::new();
    for (below, words, excepted) in rules {
        for (name, text) in sources.iter().filter(|(name, _)| name.starts_with(below)) {
            if excepted.iter().any(|e| name.starts_with(e)) {
                continue;
            }
            for (line, code) in code(text) {
                for word in words.iter().filter(|w| code.contains(**w)) {
                    complaints.push(format!("{name}:{line}: {word} must not be used in {below}"));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn backstore_knows_the_core_by_its_plain_values_only() {
    let allowed = [
        "crate::core::types",
        "crate::core::point",
        "crate::core::record",
        "crate::core::{record",
        "crate::core::{types",
    ];
    let mut complaints = Vec::new();
    for (name, text) in sources()
        .iter()
        .filter(|(name, _)| name.starts_with("fsd/src/backstore/"))
    {
        for (line, code) in code(text).filter(|(_, code)| code.contains("crate::core")) {
            if !allowed.iter().any(|a| code.contains(a)) {
                complaints.push(format!("{name}:{line}: {code}"));
            }
        }
    }
    none(complaints);
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > 800 && !LONG_FILES.iter().any(|(file, _)| *file == name) {
            complaints.push(format!("{name} has {lines} lines, 800 is the most"));
        }
    }
    none(complaints);
}

#[test]
fn every_source_says_its_duty() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//!") {
            complaints.push(format!("{name} does not start with a //! line"));
        }
    }
    none(complaints);
}

#[test]
fn unsafe_stays_inside_the_fence() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        if UNSAFE_FENCE.contains(&name.as_str()) || name == "tests/tests/layering.rs" {
            continue;
        }
        for (line, code) in code(&text) {
            let code = code.split("//").next().unwrap_or_default();
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"]
                .iter()
                .any(|word| code.contains(word));
            if is_unsafe {
                complaints.push(format!("{name}:{line}: {code}"));
            }
        }
    }
    none(complaints);
}

#[test]
fn no_test_hides() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        if name == "tests/tests/layering.rs" {
            continue;
        }
        for (line, code) in code(&text) {
            if code.starts_with("#[ignore") {
                complaints.push(format!("{name}:{line}: an ignored test"));
            }
        }
        for (line, code) in tests_of(&name, &text) {
            if waits_by_time(&name, code) {
                complaints.push(format!(
                    "{name}:{line}: a sleep; wait for a condition instead"
                ));
            }
        }
    }
    none(complaints);
}

/// The lines of code that are tests: of the suites all, elsewhere what only tests are built with.
fn tests_of<'a>(name: &str, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let all = name.starts_with("tests/") || name.ends_with("/tests.rs") || name.contains("/tests/");
    let first = text.lines().position(|line| line.trim() == "#[cfg(test)]");
    let from = if all { Some(0) } else { first };
    code(text).filter(move |(line, _)| from.is_some_and(|from| *line > from))
}

/// Whether a line lets time pass in place of a condition. In a shell's words, a short sleep may stand
/// in a loop that asks for one, and a minute or more stands for what somebody else ends.
fn waits_by_time(name: &str, code: &str) -> bool {
    if name == "tests/src/wait.rs" {
        return false;
    }
    let is_pause = name.starts_with("tests/tests/") && code.contains("pause(");
    let is_loop = ["while ", "until "].iter().any(|word| code.contains(word));
    let is_short = |rest: &str| {
        let number: String = rest
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        number.parse::<f64>().is_ok_and(|seconds| seconds < 60.0)
    };
    let sleeps = code.split("sleep ").skip(1).any(is_short);
    ["sleep(", "park_timeout("]
        .iter()
        .any(|word| code.contains(word))
        || is_pause
        || sleeps && !is_loop
}

#[test]
fn sleeps_are_found_wherever_tests_are() {
    let text = "fn a() {\n    sleep(1);\n}\n#[cfg(test)]\nmod tests {\n    sleep(2);\n}\n";
    let lines = |name: &str| -> Vec<usize> {
        let tests = tests_of(name, text).filter(|(_, code)| waits_by_time(name, code));
        tests.map(|(line, _)| line).collect()
    };
    assert_eq!(lines("fsd/src/core/inode.rs"), [6]);
    assert_eq!(lines("fsd/src/review/tests.rs"), [2, 6]);
    assert_eq!(lines("launcher/src/plan/tests/more.rs"), [2, 6]);
    assert_eq!(lines("tests/tests/run_main.rs"), [2, 6]);
    for (code, found) in [
        ("run(\"echo up; sleep 3\")", true),
        ("run(\"sleep 0.05; echo late\")", true),
        ("run(\"while [ ! -e go ]; do sleep 0.05; done\")", false),
        ("run(\"echo up; exec sleep 600\")", false),
        ("pause(Duration::from_millis(4));", true),
        ("std::thread::park_timeout(x);", true),
    ] {
        assert_eq!(waits_by_time("tests/tests/x.rs", code), found, "{code}");
    }
}

#[test]
fn every_suite_is_listed_by_the_runner() {
    let root = root();
    let lists = fs::read_to_string(root.join("scripts/suites.sh")).expect("scripts/suites.sh");
    let words: Vec<&str> = lists
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .collect();
    let mut complaints = Vec::new();
    for entry in fs::read_dir(root.join("tests/tests"))
        .expect("tests/tests")
        .flatten()
    {
        let path = entry.path();
        let stem = path
            .file_stem()
            .map(|s| s.to_string_lossy().into_owned())
            .unwrap_or_default();
        if path.extension().is_some_and(|e| e == "rs") && !words.contains(&stem.as_str()) {
            complaints.push(format!(
                "tests/tests/{stem}.rs is in no list of scripts/suites.sh"
            ));
        }
    }
    none(complaints);
}

#[test]
fn the_top_level_stays_as_designed() {
    let root = root();
    let folders = [
        "launcher", "fsd", "policy", "examples", "scripts", "tests", ".ci",
    ];
    // What git and cargo keep for themselves.
    let tools = [".git", ".github", ".cargo", "target", "logs"];
    let mut complaints = Vec::new();
    for entry in fs::read_dir(&root).expect("the root").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        if is_dir && !folders.contains(&name.as_str()) && !tools.contains(&name.as_str()) {
            complaints.push(format!("{name}/ is not one of {folders:?}"));
        }
    }
    for needed in folders.iter().chain(&[
        "README.md",
        "CHANGELOG.md",
        "Justfile",
        "LICENSE-MIT",
        "LICENSE-APACHE",
    ]) {
        if !root.join(needed).exists() {
            complaints.push(format!("{needed} is missing"));
        }
    }
    none(complaints);
}

#[test]
fn every_dependency_is_used_and_declared_once() {
    let root = root();
    let sources = sources();
    let mut complaints = Vec::new();
    for member in ["policy", "fsd", "launcher", "tests"] {
        let manifest =
            fs::read_to_string(root.join(member).join("Cargo.toml")).expect("a manifest");
        let mut in_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
                continue;
            }
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !in_dependencies || name.is_empty() || name.starts_with('#') {
                continue;
            }
            if !line.contains("workspace = true") {
                complaints.push(format!("{member}: {name} is not declared in the workspace"));
            }
            let ident = name.replace('-', "_");
            let is_used = sources.iter().any(|(file, text)| {
                file.starts_with(&format!("{member}/"))
                    && code(text).any(|(_, code)| {
                        code.contains(&format!("{ident}::"))
                            || code.contains(&format!("use {ident}"))
                    })
            });
            if !is_used {
                complaints.push(format!("{member} declares {name} and does not use it"));
            }
        }
    }
    none(complaints);
}
