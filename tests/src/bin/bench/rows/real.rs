//! What people do all day: builds, repositories, packages, databases, searches.

use std::fs;
use std::path::Path;

use super::tool::{Called, call, count, remove, run, tool, word};
use super::{Bar, Done, Group, Place, Row, Unit};
use crate::Fallible;

const fn row(
    id: &'static str,
    title: &'static str,
    prepare: super::Step,
    run: fn(&Place) -> Fallible<Done>,
) -> Row {
    Row {
        id,
        title,
        group: Group::Real,
        is_cold: false,
        bar: Some(Bar::Ratio(1.05)),
        unit: Unit::Run,
        prepare,
        run,
        clean: |place| remove(&place.own("real")),
    }
}

pub const ROWS: &[Row] = &[
    Row {
        clean: |place| remove(&place.top.join("project/target")),
        ..row(
            "cargo-build",
            "cargo build, with dependencies",
            fresh,
            cargo_build,
        )
    },
    Row {
        unit: Unit::File,
        ..row("git-clone", "git clone", fresh, git_clone)
    },
    Row {
        clean: |place| {
            run(place, &["git", "-C", "repo", "switch", "-q", "main"])?;
            Ok(())
        },
        ..row(
            "git-switch",
            "git switch, there and back",
            fresh,
            git_switch,
        )
    },
    row("npm-install", "npm install, offline", fresh, npm_install),
    row("venv", "python -m venv, with pip", fresh, venv),
    row("sqlite", "sqlite: 50 and 20,000 inserts", fresh, sqlite),
    Row {
        unit: Unit::File,
        ..row("ripgrep", "ripgrep", warm_ripgrep, ripgrep)
    },
];

fn fresh(place: &Place) -> Fallible<()> {
    remove(&place.own("real"))?;
    Ok(fs::create_dir_all(place.own("real"))?)
}

/// Whether a program is installed: what is missing is an error with that word in it.
fn need(program: &str) -> Fallible<()> {
    let path = agentfs_tests::sandbox::SYSTEM_PATH;
    match path
        .split(':')
        .any(|dir| Path::new(dir).join(program).exists())
    {
        true => Ok(()),
        false => Err(format!("{program} is not installed").into()),
    }
}

fn done(called: &Called, proof: String) -> Done {
    Done {
        elapsed: called.elapsed.clone(),
        ops: 1,
        proof,
    }
}

fn cargo_build(place: &Place) -> Fallible<Done> {
    if !place.top.join("project").is_dir() {
        return Err("the crates of its dependencies are not in the local registry".into());
    }
    let sysroot = place.sysroot.as_ref().ok_or("no Rust toolchain")?;
    let bin = sysroot.join("bin");
    let cargo = bin.join("cargo");
    let mut command = tool(place, &[word(&cargo)?, "build", "--offline", "--quiet"]);
    command
        .current_dir(place.top.join("project"))
        .env(
            "PATH",
            format!("{}:{}", bin.display(), agentfs_tests::sandbox::SYSTEM_PATH),
        )
        .env("CARGO_HOME", place.home.join(".cargo"));
    let called = call(&mut command)?;
    let built = place.top.join("project/target/debug/project");
    let said = call(&mut tool(place, &[word(&built)?]))?;
    Ok(done(
        &called,
        String::from_utf8_lossy(&said.stdout).into_owned(),
    ))
}

fn git_clone(place: &Place) -> Fallible<Done> {
    let called = run(
        place,
        &[
            "git",
            "clone",
            "-q",
            "--no-local",
            "repo",
            "work/real/clone",
        ],
    )?;
    let (files, bytes) = count(&place.own("real/clone/src"))?;
    Ok(Done {
        ops: files,
        ..done(&called, format!("{files} files, {bytes} bytes"))
    })
}

fn git_switch(place: &Place) -> Fallible<Done> {
    let mut called = run(place, &["git", "-C", "repo", "switch", "-q", "side"])?;
    let side = run(
        place,
        &["git", "-C", "repo", "status", "--porcelain", "--branch"],
    )?;
    called.elapsed += run(place, &["git", "-C", "repo", "switch", "-q", "main"])?.elapsed;
    Ok(done(
        &called,
        String::from_utf8_lossy(&side.stdout).into_owned(),
    ))
}

fn npm_install(place: &Place) -> Fallible<Done> {
    need("npm")?;
    let mut packages: Vec<_> = fs::read_dir(place.share.join("npm"))?
        .map(|entry| Ok(word(&entry?.path())?.to_owned()))
        .collect::<Fallible<_>>()?;
    packages.sort();
    let own = place.own("real");
    fs::write(
        own.join("package.json"),
        "{\"name\": \"bench\", \"version\": \"1.0.0\"}\n",
    )?;
    let words = [
        "npm",
        "install",
        "--offline",
        "--no-audit",
        "--no-fund",
        "--silent",
    ];
    let called = call(tool(place, &words).args(packages).current_dir(&own))?;
    let (files, bytes) = count(&own.join("node_modules/bench-0"))?;
    let dirs = fs::read_dir(own.join("node_modules"))?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("bench-"))
        .count();
    Ok(done(
        &called,
        format!("{dirs} packages of {files} files, {bytes} bytes"),
    ))
}

fn venv(place: &Place) -> Fallible<Done> {
    need("python3")?;
    let called = run(place, &["/usr/bin/python3", "-m", "venv", "work/real/venv"])?;
    let pip = place.own("real/venv/bin/pip");
    let said = call(&mut tool(place, &[word(&pip)?, "--version"]))?;
    let said = String::from_utf8_lossy(&said.stdout);
    let version: Vec<_> = said.split(' ').take(2).collect();
    Ok(done(&called, version.join(" ")))
}

fn sqlite(place: &Place) -> Fallible<Done> {
    need("sqlite3")?;
    let script = "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);\n";
    let mut script = script.to_owned();
    for n in 0..50 {
        script += &format!("INSERT INTO t VALUES({n}, 'one by one');\n");
    }
    script += "BEGIN;\nWITH RECURSIVE c(n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM c WHERE n < 20099)\n";
    script += "INSERT INTO t SELECT n, 'at once ' || n FROM c;\nCOMMIT;\n";
    script += "SELECT count(*), sum(length(b)) FROM t;\n";
    let path = place.own("real/script.sql");
    fs::write(&path, script)?;
    let mut command = tool(place, &["sqlite3", "work/real/data.db"]);
    let called = call(command.stdin(fs::File::open(&path)?))?;
    Ok(done(
        &called,
        String::from_utf8_lossy(&called.stdout).into_owned(),
    ))
}

fn warm_ripgrep(place: &Place) -> Fallible<()> {
    ripgrep(place)?;
    ripgrep(place)?;
    Ok(())
}

fn ripgrep(place: &Place) -> Fallible<Done> {
    need("rg")?;
    let called = run(place, &["rg", "--no-heading", "license", "crates"])?;
    let proof = format!(
        "{} lines, {:x}",
        called.lines(),
        super::tool::digest(&called.stdout)
    );
    Ok(Done {
        ops: place.sizes.files,
        ..done(&called, proof)
    })
}
