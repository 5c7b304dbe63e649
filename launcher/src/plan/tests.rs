//! Plans for made-up hosts.

use agentfs_policy::{Context, Origin, Profile, Rule, builtin, merge};

use super::*;

const HOME: &str = "/home/u";
const STORE: &str = "/home/u/.local/share/agentfs";

fn facts(dirs: &[&str], files: &[&str]) -> Facts {
    let mut facts = Facts::default();
    let fixed = [
        "/",
        "/tmp",
        "/var/tmp",
        "/run",
        "/dev",
        "/proc",
        "/sys",
        HOME,
        "/home/u/p",
    ];
    for dir in fixed.iter().chain(dirs) {
        facts.kinds.insert(dir.into(), PathKind::Dir);
    }
    for file in ["/dev/null", "/dev/tty"].iter().chain(files) {
        facts.kinds.insert(file.into(), PathKind::File);
    }
    facts
}

fn flags(rules: &[(Access, &str)]) -> Profile {
    let mut profile = Profile::default();
    for (access, path) in rules {
        let origin = Origin::flag("--flag");
        profile
            .push(Rule {
                path: path.into(),
                access: *access,
                origin,
                named: true,
            })
            .unwrap();
    }
    profile
}

fn make(uid: u32, facts: &Facts, rules: &[(Access, &str)], cwd: &str) -> Result<Plan, CmdError> {
    let context = Context {
        home: Some(HOME.into()),
        workspace: "/home/u/p".into(),
        ..Context::default()
    };
    let policy = merge(vec![builtin::profile(&context)?, flags(rules)])?;
    plan(&Inputs {
        uid,
        gid: uid,
        branch: "b",
        policy: &policy,
        facts,
        store: Path::new(STORE),
        workspace: Path::new("/home/u/p"),
        cwd: Path::new(cwd),
        env_dropped: Vec::new(),
        scratch_dirs: vec!["/run/user/7".into(), "/home/u/tmp".into()],
    })
}

fn at(plan: &Plan, wanted: &SetupOp) -> usize {
    let found = plan.steps.iter().position(|op| op == wanted);
    found.unwrap_or_else(|| panic!("no {wanted:?} in {:#?}", plan.steps))
}

fn host(path: &str, write: bool, make: bool) -> SetupOp {
    SetupOp::Host {
        at: path.into(),
        from: path.into(),
        write,
        make,
    }
}

fn branch(path: &str) -> SetupOp {
    SetupOp::Branch {
        at: path.into(),
        make: false,
    }
}

fn hide(path: &str) -> SetupOp {
    SetupOp::Hide {
        at: path.into(),
        keep: Vec::new(),
    }
}

#[test]
fn propagation_is_first_and_the_pivot_last() {
    let p = make(7, &facts(&[], &[]), &[], "/home/u/p").unwrap();
    assert_eq!(p.steps.first(), Some(&SetupOp::PrivatePropagation));
    assert_eq!(p.steps.last(), Some(&SetupOp::Pivot));
}

#[test]
fn the_workspace_in_the_home_is_one_root() {
    let p = make(7, &facts(&[], &[]), &[], "/home/u/p").unwrap();
    assert_eq!(p.roots, [Path::new(HOME)]);
    let waits = at(&p, &SetupOp::AwaitBranch);
    assert!(at(&p, &branch(HOME)) > waits);
    assert_eq!(
        p.steps
            .iter()
            .filter(|o| matches!(o, SetupOp::Branch { .. }))
            .count(),
        1
    );
    assert!(
        at(&p, &SetupOp::HostRoot) < waits,
        "the host's part does not wait for the daemon"
    );
}

#[test]
fn hidden_paths_are_concealed_on_the_branch_and_covered_elsewhere() {
    let f = facts(
        &["/home/u/.ssh", "/home/u/x", "/etc/ssl/private"],
        &["/etc/shadow"],
    );
    let p = make(7, &f, &[(Access::Hide, "/home/u/x")], "/home/u/p").unwrap();
    let root = at(&p, &branch(HOME));
    assert!(
        at(&p, &hide("/home/u/x")) > root,
        "asked for by flag: whatever the branch has there"
    );
    assert!(
        !p.steps.contains(&hide("/home/u/.ssh")),
        "the branch may have one of its own"
    );
    at(&p, &hide("/etc/shadow"));
    at(&p, &hide("/etc/ssl/private"));
    for path in [
        STORE,
        "/home/u/.ssh",
        "/home/u/x",
        "/home/u/.netrc",
        "/home/u/.config/gh",
    ] {
        let told = p.conceal.iter().any(|c| c == Path::new(path));
        assert!(told, "{path}, whether it exists or not: {:?}", p.conceal);
    }
    let others = p.conceal.iter().find(|c| !c.starts_with(HOME));
    assert_eq!(others, None, "only below a root");
}

#[test]
fn nested_rules_mount_outermost_first() {
    let f = facts(&["/home/u/a", "/home/u/a/b", "/home/u/a/b/c"], &[]);
    let rules = [
        (Access::Cow, "/home/u/a/b/c"),
        (Access::SharedRw, "/home/u/a/b"),
        (Access::ReadOnly, "/home/u/a"),
    ];
    let p = make(7, &f, &rules, "/home/u/p").unwrap();
    let order = [
        branch(HOME),
        host("/home/u/a", false, false),
        host("/home/u/a/b", true, false),
        branch("/home/u/a/b/c"),
    ];
    let places: Vec<_> = order.iter().map(|op| at(&p, op)).collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn a_visible_place_below_a_hidden_one_is_kept() {
    let f = facts(&["/home/u/.config/gh", "/home/u/.config/gh/x"], &[]);
    let p = make(7, &f, &[(Access::Cow, "/home/u/.config/gh/x")], "/home/u/p").unwrap();
    let cover = SetupOp::Hide {
        at: "/home/u/.config/gh".into(),
        keep: vec![("/home/u/.config/gh/x".into(), PathKind::Dir)],
    };
    assert!(at(&p, &cover) < at(&p, &branch("/home/u/.config/gh/x")));
    assert!(
        !p.conceal
            .iter()
            .any(|c| c == Path::new("/home/u/.config/gh")),
        "{:?}",
        p.conceal
    );
}

#[test]
fn places_below_a_private_one_are_made() {
    let f = facts(&["/tmp/w"], &["/tmp/f"]);
    let rules = [(Access::Cow, "/tmp/w"), (Access::ReadOnly, "/tmp/f")];
    let p = make(7, &f, &rules, "/tmp/w/sub").unwrap();
    let tmp = at(
        &p,
        &SetupOp::Tmpfs {
            at: "/tmp".into(),
            mode: 0o1777,
        },
    );
    assert!(
        at(
            &p,
            &SetupOp::Branch {
                at: "/tmp/w".into(),
                make: true
            }
        ) > tmp
    );
    assert!(at(&p, &host("/tmp/f", false, true)) > tmp);
    assert_eq!(p.cwd, Path::new("/tmp/w/sub"));
    assert_eq!(p.roots, [Path::new(HOME), Path::new("/tmp/w")]);
}

#[test]
fn a_directory_that_the_view_lacks_is_not_the_start() {
    let p = make(7, &facts(&[], &[]), &[], "/tmp/elsewhere").unwrap();
    assert_eq!(p.cwd, Path::new("/home/u/p"));
    assert_eq!(
        make(7, &facts(&[], &[]), &[], "/usr").unwrap().cwd,
        Path::new("/usr")
    );
}

#[test]
fn the_whole_root_may_be_the_branch() {
    let p = make(7, &facts(&[], &[]), &[(Access::Cow, "/")], "/home/u/p").unwrap();
    assert_eq!(p.roots, [Path::new("/")]);
    let root = at(&p, &SetupOp::BranchRoot);
    assert!(!p.steps.contains(&SetupOp::HostRoot));
    assert!(at(&p, &host("/sys", false, false)) > root);
    assert!(at(&p, &host("/proc", false, false)) > root);
    assert!(
        at(
            &p,
            &SetupOp::Tmpfs {
                at: "/tmp".into(),
                mode: 0o1777
            }
        ) > root
    );
    assert!(!p.steps.iter().any(|o| matches!(o, SetupOp::Branch { .. })));
}

#[test]
fn owned_copies_are_for_those_whom_root_is_a_stranger_to() {
    let f = facts(&["/etc/ssh"], &[]);
    let own = SetupOp::Own {
        at: "/etc/ssh".into(),
        hidden: vec![STORE.into()],
    };
    assert!(make(7, &f, &[], "/home/u/p").unwrap().steps.contains(&own));
    let root = make(0, &f, &[], "/home/u/p").unwrap();
    assert!(!root.steps.contains(&own));
    assert_eq!((root.ids, root.passthrough), (IdMap::Full, true));
    assert!(root.proc_read_only.contains(&"sys"));
    let hidden = make(7, &f, &[(Access::Hide, "/etc/ssh")], "/home/u/p").unwrap();
    let is_copy = |op: &SetupOp| matches!(op, SetupOp::Own { .. });
    assert!(!hidden.steps.iter().any(is_copy));
    // What is hidden below it is left out, and covered on top of the copy.
    let f = facts(&["/etc/ssh"], &["/etc/ssh/key"]);
    let p = make(7, &f, &[(Access::Hide, "/etc/ssh/key")], "/home/u/p").unwrap();
    let own = SetupOp::Own {
        at: "/etc/ssh".into(),
        hidden: vec!["/etc/ssh/key".into(), STORE.into()],
    };
    assert!(at(&p, &own) < at(&p, &hide("/etc/ssh/key")));
}

#[test]
fn scratch_directories_are_made_only_in_private_places() {
    let p = make(7, &facts(&[], &[]), &[], "/home/u/p").unwrap();
    let dir = |d: &str| SetupOp::Dir {
        at: d.into(),
        mode: 0o700,
    };
    assert!(p.steps.contains(&dir("/run/user/7")));
    assert!(!p.steps.contains(&dir("/home/u/tmp")));
}

#[test]
fn the_name_server_file_stays() {
    let mut f = facts(&[], &[]);
    f.resolv_conf = Some("/run/systemd/resolve/stub-resolv.conf".into());
    let p = make(7, &f, &[], "/home/u/p").unwrap();
    let run = at(
        &p,
        &SetupOp::Tmpfs {
            at: "/run".into(),
            mode: 0o755,
        },
    );
    assert!(
        at(
            &p,
            &host("/run/systemd/resolve/stub-resolv.conf", false, true)
        ) > run
    );
}

#[test]
fn senseless_requests_are_refused_by_name() {
    let f = facts(
        &[STORE, "/home/u/.local/share/agentfs/branches"],
        &["/home/u/file"],
    );
    for (access, path, words) in [
        (Access::Cow, "/nowhere", "no such directory"),
        (Access::Cow, "/home/u/file", "not a directory"),
        (Access::Cow, "/proc", "no branch"),
        (Access::Cow, STORE, "inside the store"),
        (Access::ReadOnly, STORE, "inside the store"),
        (Access::DenyWrite, STORE, "inside the store"),
        (Access::SharedRw, STORE, "inside the store"),
        (
            Access::ReadOnly,
            "/home/u/.local/share/agentfs/branches",
            "inside the store",
        ),
        (Access::ReadOnly, "/nowhere", "no such file"),
        (Access::SharedRw, "/", "share the host"),
    ] {
        let e = make(7, &f, &[(access, path)], "/home/u/p")
            .unwrap_err()
            .to_string();
        assert!(e.contains(words) && e.contains(path), "{path}: {e}");
    }
    assert!(make(7, &f, &[(Access::Hide, "/nowhere")], "/home/u/p").is_ok());
}

#[test]
fn every_step_has_words_and_json() {
    let f = facts(&["/etc/ssh", "/home/u/d"], &["/etc/shadow"]);
    let p = make(7, &f, &[(Access::DenyWrite, "/home/u/d")], "/home/u/p").unwrap();
    let text = readable(&p, "b", "true");
    for word in [
        "hidden          /etc/shadow",
        "branch          /home/u",
        "no writes /home/u/d",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let json = serde_json::to_value(&p).unwrap();
    assert_eq!(json["steps"].as_array().map(Vec::len), Some(p.steps.len()));
}
