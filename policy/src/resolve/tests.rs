//! Merging, tightening, specificity, and the built-in profile.

use super::*;
use crate::builtin;
use crate::profile::Context;
use crate::rule::Origin;

fn context() -> Context {
    Context {
        home: Some("/home/u".into()),
        workspace: "/home/u/proj".into(),
        ..Context::default()
    }
}

fn parse(source: Source, text: &str) -> Result<Profile, PolicyError> {
    Profile::parse(text, source, "p.toml", &context())
}

fn policy(user: &str, repo: &str) -> Result<Policy, PolicyError> {
    merge(vec![
        builtin::profile(&context())?,
        parse(Source::User, user)?,
        parse(Source::Repository, repo)?,
    ])
}

#[test]
fn the_builtin_profile_hides_secrets_and_covers_workspace_and_home() {
    let p = policy("", "").unwrap();
    for path in [
        "/home/u/.ssh/id_ed25519",
        "/home/u/.aws/credentials",
        "/home/u/.config/gh/x",
    ] {
        assert_eq!(p.access(Path::new(path)), Access::Hide, "{path}");
    }
    for path in [
        "/home/u/proj/src",
        "/home/u/.cargo/registry",
        "/home/u/.config/git/config",
    ] {
        assert_eq!(p.access(Path::new(path)), Access::Cow, "{path}");
    }
    assert_eq!(p.access(Path::new("/usr/bin")), Access::ReadOnly);
    for name in [
        "GH_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "npm_config_//r/:_authToken",
        "BASH_ENV",
    ] {
        assert!(!p.env.keeps(name.as_bytes()), "{name}");
    }
    for name in [
        "PATH",
        "HOME",
        "CARGO_HOME",
        "RUSTFLAGS",
        "LANG",
        "GIT_AUTHOR_NAME",
        "CC",
    ] {
        assert!(p.env.keeps(name.as_bytes()), "{name}");
    }
}

#[test]
fn without_a_home_its_rules_are_left_out() {
    let context = Context {
        workspace: "/srv/p".into(),
        ..Context::default()
    };
    let p = merge(vec![builtin::profile(&context).unwrap()]).unwrap();
    assert_eq!(p.access(Path::new("/srv/p/x")), Access::Cow);
    assert!(p.rules().all(|r| !r.path.starts_with("/home")));
}

#[test]
fn the_most_specific_path_wins_in_any_order_of_writing() {
    let one = "[filesystem]\nread_only = ['~/a']\nshared_rw = ['~/a/b']\nhide = ['~/a/b/c']";
    let two = "[filesystem]\nhide = ['~/a/b/c']\nshared_rw = ['~/a/b']\nread_only = ['~/a']";
    for text in [one, two] {
        let p = policy(text, "").unwrap();
        assert_eq!(p.access(Path::new("/home/u/a/x")), Access::ReadOnly);
        assert_eq!(p.access(Path::new("/home/u/a/b/x")), Access::SharedRw);
        assert_eq!(p.access(Path::new("/home/u/a/b/c/x")), Access::Hide);
        assert_eq!(p.access(Path::new("/home/u/ab")), Access::Cow);
    }
}

#[test]
fn a_user_may_unhide_and_the_rule_says_who_did() {
    let p = policy("[filesystem]\n\ncow = ['~/.ssh']", "").unwrap();
    let why = p.why(Path::new("/home/u/.ssh/config"));
    assert_eq!(why[0].access, Access::Cow);
    assert_eq!(why[0].origin.to_string(), "p.toml:3");
    assert_eq!(why[1].path, Path::new("/home/u"));
}

#[test]
fn a_repository_may_tighten() {
    let p = policy("", "[filesystem]\nhide = ['.env']\nread_only = ['vendor']").unwrap();
    assert_eq!(p.access(Path::new("/home/u/proj/.env")), Access::Hide);
    assert_eq!(
        p.access(Path::new("/home/u/proj/vendor/x")),
        Access::ReadOnly
    );
}

#[test]
fn a_repository_may_not_widen() {
    for (key, path) in [
        ("cow", "~/.ssh"),
        ("read_only", "~/.ssh/id"),
        ("shared_rw", "build"),
        ("cow", "/etc"),
        ("shared_rw", "/"),
    ] {
        let got = policy("", &format!("[filesystem]\n{key} = ['{path}']"));
        assert!(
            matches!(got, Err(PolicyError::Widens { .. })),
            "{key} {path}: {got:?}"
        );
    }
    let got = policy("", "[env]\nkeep = ['X_TOKEN']");
    assert!(
        matches!(got, Err(PolicyError::WidensEnv { verb: "keep", .. })),
        "{got:?}"
    );
    let got = policy("", "[env.set]\nPATH = '/evil'");
    assert!(
        matches!(got, Err(PolicyError::WidensEnv { verb: "set", .. })),
        "{got:?}"
    );
}

#[test]
fn unknown_keys_name_file_line_and_the_known_keys() {
    let e = parse(Source::User, "[filesystem]\ncow = []\ncoww = ['/x']")
        .unwrap_err()
        .to_string();
    assert!(e.starts_with("p.toml:3:"), "{e}");
    for word in [
        "coww",
        "cow",
        "read_only",
        "shared_rw",
        "hide",
        "deny_write",
    ] {
        assert!(e.contains(word), "{word}: {e}");
    }
    let e = parse(Source::User, "\n[filesytem]\n")
        .unwrap_err()
        .to_string();
    assert!(
        e.starts_with("p.toml:2:") && e.contains("filesystem"),
        "{e}"
    );
}

#[test]
fn sections_that_nothing_enforces_are_refused() {
    for section in ["network", "process"] {
        let e = parse(Source::User, &format!("\n[{section}]\nx = 1")).unwrap_err();
        let text = e.to_string();
        assert!(text.starts_with("p.toml:2: section ["), "{text}");
        assert!(text.contains(section), "{text}");
    }
}

#[test]
fn contradictions_and_bad_paths_are_named() {
    let e = parse(Source::User, "[filesystem]\ncow = ['/a']\nhide = ['/a/']").unwrap_err();
    assert!(
        e.to_string()
            .contains("p.toml:3: /a is hide here but cow at p.toml:2"),
        "{e}"
    );
    for bad in ["", "x", "/a/../b", "~u/x", "$HOME/x"] {
        let e = parse(Source::User, &format!("[filesystem]\ncow = ['{bad}']")).unwrap_err();
        assert!(matches!(e, PolicyError::BadPath { .. }), "{bad}: {e}");
    }
    let e = parse(Source::User, "[filesystem]\ncow = 3")
        .unwrap_err()
        .to_string();
    assert!(e.starts_with("p.toml:2:"), "{e}");
}

/// What `/link` stands for, in the tests below.
fn real(path: &Path) -> PathBuf {
    match path.strip_prefix("/home/u/proj/link") {
        Ok(rest) => Path::new("/home/u/.ssh").join(rest),
        Err(_) => path.to_owned(),
    }
}

/// A policy of resolved profiles, as the launcher makes it.
fn resolved(user: &str, repo: &str, flags: &[(Access, &str)]) -> Result<Policy, PolicyError> {
    let mut flag = Profile::default();
    for (access, path) in flags {
        flag.push(Rule {
            path: path.into(),
            access: *access,
            origin: Origin::flag("--f"),
            named: true,
        })?;
    }
    let profiles = vec![
        builtin::profile(&context())?,
        parse(Source::User, user)?,
        parse(Source::Repository, repo)?,
        flag,
    ];
    merge(profiles.into_iter().map(|p| p.resolved(real)).collect())
}

#[test]
fn two_rules_that_meet_on_one_real_path_keep_the_tighter() {
    for text in [
        "[filesystem]\nhide = ['~/proj/link/x']\ncow = ['~/.ssh/x']",
        "[filesystem]\ncow = ['~/proj/link/x']\nhide = ['~/.ssh/x']",
    ] {
        let p = resolved(text, "", &[]).unwrap();
        assert_eq!(p.access(Path::new("/home/u/.ssh/x")), Access::Hide);
    }
}

#[test]
fn a_link_does_not_let_a_repository_widen() {
    for key in ["read_only", "deny_write", "cow", "shared_rw"] {
        for path in ["link", "link/id"] {
            let got = resolved("", &format!("[filesystem]\n{key} = ['{path}']"), &[]);
            let Err(PolicyError::Widens { path, have, .. }) = got else {
                panic!("{key} {path}: {got:?}");
            };
            assert!(path.starts_with("/home/u/.ssh"), "{path:?}");
            assert_eq!(have, Access::Hide);
        }
    }
    let p = resolved("", "[filesystem]\nhide = ['link']", &[]).unwrap();
    assert_eq!(p.access(Path::new("/home/u/.ssh/id")), Access::Hide);
}

#[test]
fn the_user_shows_a_hidden_place_by_its_name_only() {
    let shown = resolved("[filesystem]\nread_only = ['~/.ssh/config']", "", &[]).unwrap();
    assert_eq!(
        shown.access(Path::new("/home/u/.ssh/config")),
        Access::ReadOnly
    );
    for path in [
        "~/proj/link",
        "~/proj/link/id",
        "$WORKSPACE/link",
        "$WORKSPACE/link/id",
    ] {
        let text = format!("[filesystem]\nread_only = ['{path}']");
        let e = resolved(&text, "", &[]).unwrap_err();
        assert!(matches!(e, PolicyError::Uncovers { .. }), "{path}: {e:?}");
        let text = e.to_string();
        assert!(
            text.contains("/home/u/.ssh") && text.contains("built-in profile;"),
            "{text}"
        );
    }
    // The file's own word against itself.
    let context = Context {
        workspace: "/home/u/s/p".into(),
        ..context()
    };
    let text = "[filesystem]\nhide = ['~/s']\ncow = ['$WORKSPACE']";
    let user = Profile::parse(text, Source::User, "p.toml", &context).unwrap();
    let got = merge(vec![user]);
    assert!(matches!(got, Err(PolicyError::Uncovers { .. })), "{got:?}");
}

#[test]
fn what_is_built_in_uncovers_nothing() {
    for (workspace, hidden) in [
        ("/home/u/.ssh", ""),
        ("/home/u/.password-store/sub", ""),
        ("/home/u/proj", "[filesystem]\nhide = ['/home']"),
    ] {
        let context = Context {
            workspace: workspace.into(),
            ..context()
        };
        let profiles = |named: &str| {
            let user = format!("{hidden}\n{named}");
            vec![
                builtin::profile(&context).unwrap(),
                Profile::parse(&user, Source::User, "p.toml", &context).unwrap(),
            ]
        };
        let mut p = merge(profiles("")).unwrap();
        assert_eq!(p.access(Path::new(workspace)), Access::Hide, "{workspace}");
        p.add_unless_hidden(Rule {
            path: Path::new(workspace).join("git"),
            access: Access::Cow,
            origin: Origin::flag("--f"),
            named: true,
        });
        assert_eq!(p.access(&Path::new(workspace).join("git")), Access::Hide);
    }
    let p = resolved("", "", &[(Access::Cow, "/home/u/.ssh")]).unwrap();
    assert_eq!(p.access(Path::new("/home/u/.ssh/id")), Access::Cow);
}

#[test]
fn a_repository_yields_to_flags() {
    let text = "[filesystem]\nread_only = ['a/b']\nhide = ['c']";
    let flags = [
        (Access::Hide, "/home/u/proj/a"),
        (Access::Cow, "/home/u/proj/c"),
    ];
    let p = resolved("", text, &flags).unwrap();
    assert_eq!(p.access(Path::new("/home/u/proj/a/b/x")), Access::Hide);
    assert_eq!(p.access(Path::new("/home/u/proj/c")), Access::Cow);
    let p = resolved("", text, &[]).unwrap();
    assert_eq!(p.access(Path::new("/home/u/proj/a/b/x")), Access::ReadOnly);
}

#[test]
fn a_repository_does_not_take_from_the_branch_what_the_branch_hides() {
    let p = resolved("", "[filesystem]\nread_only = ['~/.config']", &[]).unwrap();
    assert_eq!(
        p.access(Path::new("/home/u/.config/x")),
        Access::DenyWrite,
        "the branch goes on hiding what appears below"
    );
    for (key, path) in [("read_only", "~"), ("deny_write", "~")] {
        let got = resolved("", &format!("[filesystem]\n{key} = ['{path}']"), &[]);
        assert!(
            matches!(got, Err(PolicyError::Unveils { .. })),
            "{key} {path}: {got:?}"
        );
    }
}

#[test]
fn a_repository_has_no_say_over_owners() {
    let got = parse(Source::Repository, "[filesystem]\nown = ['/opt/x']");
    assert!(matches!(got, Err(PolicyError::WidensOwn { .. })), "{got:?}");
    assert_eq!(
        parse(Source::User, "[filesystem]\nown = ['/opt/x']")
            .unwrap()
            .own,
        [Path::new("/opt/x")]
    );
}

#[test]
fn what_is_hidden_in_one_home_is_hidden_in_all() {
    for home in [Some("/home/u".into()), None] {
        let context = Context {
            home,
            other_homes: vec!["/root".into(), "/home/v".into()],
            workspace: "/home/v/p".into(),
        };
        let text = "[filesystem]\nhide = ['~/mine']\ncow = ['~/x', '/root/mine']";
        let user = Profile::parse(text, Source::User, "p.toml", &context).unwrap();
        let p = merge(vec![builtin::profile(&context).unwrap(), user]).unwrap();
        for path in ["/root/.aws/x", "/home/v/.aws/x", "/home/v/mine"] {
            assert_eq!(p.access(Path::new(path)), Access::Hide, "{path}");
        }
        assert_eq!(p.access(Path::new("/home/v/x")), Access::ReadOnly);
        assert_eq!(
            p.access(Path::new("/root/mine")),
            Access::Cow,
            "the source's own word"
        );
        assert_eq!(p.access(Path::new("/home/v/p/x")), Access::Cow);
    }
}

#[test]
fn the_examples_are_valid() {
    let text = |name: &str| match name {
        "agent" => include_str!("../../../examples/agent.toml"),
        "ci" => include_str!("../../../examples/ci.toml"),
        _ => include_str!("../../../examples/repository.agentfs.toml"),
    };
    let agent = policy(text("agent"), text("repository")).unwrap();
    assert!(agent.env.keeps(b"ANTHROPIC_API_KEY") && !agent.env.keeps(b"OTHER_API_KEY"));
    assert_eq!(
        agent.access(Path::new("/home/u/proj/.git/hooks/x")),
        Access::DenyWrite
    );
    let ci = policy(text("ci"), "").unwrap();
    assert_eq!(ci.access(Path::new("/home/u/x")), Access::ReadOnly);
    assert_eq!(ci.access(Path::new("/home/u/.ssh/x")), Access::Hide);
    assert_eq!(ci.access(Path::new("/home/u/proj/x")), Access::Cow);
}

#[test]
fn a_limit_is_merged_and_a_repository_only_tightens_it() {
    let disk = |user: &str, repo: &str| {
        let limits = |value: &str| match value {
            "" => String::new(),
            value => format!("\n[limits]\ndisk = '{value}'"),
        };
        let p = policy(&limits(user), &limits(repo)).unwrap();
        let from: Vec<_> = p.disk_from.iter().map(ToString::to_string).collect();
        (p.disk.to_string(), from.len())
    };
    assert_eq!(disk("", ""), ("none".into(), 0));
    assert_eq!(disk("2G", ""), ("2G".into(), 1));
    assert_eq!(disk("", "1G"), ("1G".into(), 1));
    assert_eq!(disk("2G", "4G"), ("2G".into(), 1));
    assert_eq!(disk("2G", "none"), ("2G".into(), 1));
    assert_eq!(disk("2G", "4G,inodes=100k"), ("2G,inodes=100k".into(), 2));
    assert_eq!(disk("none", "1G"), ("1G".into(), 1));
    for (text, word) in [
        ("[limits]\ndisk = 'much'", "write 2G"),
        ("[limits]\ndisk = 5", "string"),
        ("[limits]\nmemory = '1G'", "'memory' is not enforced"),
        ("[limits]\npids = 5", "'pids' is not enforced"),
        ("[limits]\nx = 5", "unknown field"),
    ] {
        let e = parse(Source::User, text).unwrap_err().to_string();
        assert!(e.starts_with("p.toml:2: ") && e.contains(word), "{e}");
    }
}
