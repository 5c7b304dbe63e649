//! The reader of attributes against `git check-attr`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

/// What git says: for each path the first converting attribute that applies.
fn git_says(dir: &Path, paths: &[&str]) -> Vec<Option<String>> {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(args).current_dir(dir).env("HOME", dir);
        command.env("GIT_ATTR_NOSYSTEM", "1");
        command
    };
    assert!(git(&["init", "-q"]).status().unwrap().success());
    let mut child = git(&[
        "check-attr",
        "-z",
        "--stdin",
        "filter",
        "working-tree-encoding",
        "ident",
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let names: Vec<u8> = paths
        .iter()
        .flat_map(|p| [p.as_bytes(), b"\0"].concat())
        .collect();
    child.stdin.take().unwrap().write_all(&names).unwrap();
    let out = child.wait_with_output().unwrap().stdout;
    let words: Vec<_> = out.split(|b| *b == 0).collect();
    let found = words
        .chunks(9)
        .filter(|chunk| chunk.len() == 9)
        .map(|chunk| {
            let attributes = chunk.chunks(3).map(|triple| (triple[1], triple[2]));
            let mut found = attributes.filter(|(name, value)| match *name {
                b"ident" => *value == b"set",
                b"working-tree-encoding" if is_utf8(value) => false,
                _ => !matches!(*value, b"set" | b"unset" | b"unspecified"),
            });
            found
                .next()
                .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        });
    found.collect()
}

/// The top's file and that of `sub`, as git and as we read them.
fn compare(top: &str, sub: &str, info: &str, paths: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join(".gitattributes"), top).unwrap();
    fs::write(dir.path().join("sub/.gitattributes"), sub).unwrap();
    git_says(dir.path(), &[]);
    fs::create_dir_all(dir.path().join(".git/info")).unwrap();
    fs::write(dir.path().join(".git/info/attributes"), info).unwrap();
    let expected = git_says(dir.path(), paths);
    let parse = |text: &str, macros| Attributes::parse(text.as_bytes(), macros);
    let (top, sub, info) = (parse(top, true), parse(sub, false), parse(info, true));
    for (path, expected) in paths.iter().zip(expected) {
        let mut stack = vec![(&info, path.as_bytes())];
        if let Some(below) = path.strip_prefix("sub/") {
            stack.push((&sub, below.as_bytes()));
        }
        stack.push((&top, path.as_bytes()));
        assert_eq!(converts(&stack), expected.as_deref(), "{path}");
    }
}

#[test]
fn attributes_are_those_of_git() {
    let top = "# comment\n*.id ident\n*.lfs filter=lfs -text\n  *.u16 working-tree-encoding=UTF-16LE\n\
        *.u8 working-tree-encoding=utf-8\n[attr]lfs filter=lfs diff=lfs\n*.bin lfs\n*.set filter\n\
        /only filter=a\ndir/ filter=a\ndir/*.x filter=a\nd/**/e filter=a\n**/deep filter=a\nall/** filter=a\n\
        \"sp ace*\" filter=a\n\"q\\\"t\\303\\274\" filter=a\n!neg filter=a\n[a-c]x[!0-9] filter=a\n\
        [[:digit:]]? filter=a\nesc\\*ape filter=a\n*.off ident\n*.off -ident\n*.no ident\nun*.no !ident\n\
        two**stars filter=a\nx/y**z filter=a\n*.both ident filter=z\n[ab filter=a\n*.tw -filter filter=b ident\n";
    let sub = "*.lfs -filter\n*.id !ident\n/only filter=b\n[attr]mine ident\n*.m mine\nin/*.y ident\n*.bin -lfs\n";
    let info = "forced.* filter=info\n*.lfs2 filter=i\nsub/in/z.y -ident\n";
    let paths = [
        "a.id",
        "sub/a.id",
        "x/a.id",
        "a.lfs",
        "sub/a.lfs",
        "x/y/a.lfs",
        "a.u16",
        "a.u8",
        "a.bin",
        "sub/a.bin",
        "a.set",
        "only",
        "sub/only",
        "x/only",
        "dir/a",
        "dir/a.x",
        "dir/b/a.x",
        "d/e",
        "d/f/e",
        "d/f/g/e",
        "d/fe",
        "deep",
        "a/deep",
        "a/b/deep",
        "all/a",
        "all/b/c",
        "all",
        "sp ace1",
        "sp",
        "q\"t\u{fc}",
        "neg",
        "!neg",
        "axz",
        "bx1",
        "dxz",
        "1a",
        "12",
        "a1",
        "esc*ape",
        "escXape",
        "a.off",
        "a.no",
        "un1.no",
        "two--stars",
        "x/y1z",
        "x/y1/z",
        "a.both",
        "[ab",
        "a.tw",
        "sub/a.m",
        "sub/in/a.y",
        "sub/in/b/a.y",
        "sub/in/z.y",
        "forced.lfs",
        "sub/forced.lfs",
        "a.lfs2",
    ];
    compare(top, sub, info, &paths);
}

#[test]
fn a_hostile_pattern_costs_no_more_than_its_length() {
    let pattern = "*a".repeat(1000);
    let text = format!("{pattern} filter=x\n");
    assert!(text.len() < LINE_BYTES);
    let all = Attributes::parse(text.as_bytes(), true);
    let path = "a".repeat(4000) + "b";
    assert_eq!(converts(&[(&all, path.as_bytes())]), None);
    let rings = Attributes::parse(b"[attr]a b\n[attr]b a ident\nx a\n", true);
    assert_eq!(converts(&[(&rings, b"x")]), Some("ident"));
}
