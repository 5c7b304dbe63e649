//! git on a branch: the day's work on a base repository, and the base repository untouched.

use agentfs_tests::need::need_run;
use agentfs_tests::{Manifest, Sandbox, base};

/// A workspace that is a repository with some history, a tag and a branch.
fn repository() -> (Sandbox, Manifest) {
    let sandbox = Sandbox::new();
    base::wide(&sandbox.work(), 300);
    sandbox.host_sh(
        "git init -q; git add -A; git commit -qm first; echo two > second; git add -A; \
         git commit -qm second; git branch side; git tag v1; \
         git checkout -q side; echo side > side; git add -A; git commit -qm side; git checkout -q main; \
         git gc -q; echo loose > loose; git add -A; git commit -qm third; git status >/dev/null",
    );
    let before = Manifest::of(&sandbox.work());
    (sandbox, before)
}

#[test]
fn status_is_clean_when_nothing_changed() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = repository();
    assert_eq!(sandbox.sh("b", "git status --porcelain").ok().out(), "");
    // Sure of it without reading every file: the index's stamps agree with the view.
    let script = "GIT_TRACE2_PERF=1 git -c core.trustctime=true diff-files --quiet && echo fresh";
    assert_eq!(sandbox.sh("b", script).ok().out(), "fresh\n");
    assert_eq!(
        sandbox
            .sh("b", "git fsck --full --strict 2>&1 | sed '/^dangling/d'")
            .ok()
            .out(),
        ""
    );
    before.assert_still();
}

#[test]
fn a_days_work() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = repository();
    let day = "set -e
        git checkout -q -b feature
        echo work > work; echo more >> second; git rm -q d0/e0/f0; git mv d1 d1-moved
        git add -A; git commit -qm work
        echo half >> second; git stash -q; test \"$(git status --porcelain)\" = ''
        git stash pop -q; git diff --quiet && exit 1; git commit -qam half
        git rebase -q side; test -e side; git log --format=%s | head -5
        git cherry-pick -n main >/dev/null; git reset -q --hard
        git gc -q --prune=now; test \"$(git fsck --full --strict 2>&1 | sed '/^dangling/d')\" = ''
        git worktree add -q ../home/tree main; git -C ../home/tree status --porcelain
        git worktree remove ../home/tree
        git checkout -q main; git merge -q feature -m merged; git status --porcelain";
    let out = sandbox.sh("b", day).ok().out();
    assert_eq!(out, "half\nwork\nthird\nside\nsecond\n");
    let later = "set -e; git status --porcelain; git branch --format='%(refname:short)'; \
        cat work; test ! -e d0/e0/f0; test -d d1-moved; git fsck --full 2>&1 | sed '/^dangling/d'";
    assert_eq!(
        sandbox.sh("b", later).ok().out(),
        "feature\nmain\nside\nwork\n"
    );
    before.assert_still();
    assert_eq!(
        sandbox
            .host_sh("git status --porcelain; git branch --format='%(refname:short)'")
            .out(),
        "main\nside\n"
    );
}

#[test]
fn clones_of_the_base_and_back() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = repository();
    // A local clone hard-links the base's packs into the branch.
    let script = "set -e; git clone -q . ../home/clone; cd ../home/clone; git status --porcelain; \
        echo x > x; git add -A; git commit -qm from-clone; git push -q origin main:pushed; \
        git -C \"$OLDPWD\" log --format=%s -1 pushed; git fsck --full; \
        git clone -q --no-hardlinks . ../clone2; git -C ../clone2 log --format=%s -1";
    assert_eq!(
        sandbox.sh("b", script).ok().out(),
        "from-clone\nfrom-clone\n"
    );
    before.assert_still();
    assert_eq!(sandbox.host_sh("git branch --list pushed").out(), "");
}

#[test]
fn two_agents_commit_to_the_same_repository() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = repository();
    let work = "set -e; for i in $(seq 8); do echo $ME $i >> second; git commit -qam \"$ME $i\"; done; \
        git log --format=%s | head -9; git fsck --full 2>&1 | sed '/^dangling/d'";
    let runs = ["one", "two"].map(|me| (me, sandbox.start_sh(me, &format!("ME={me}; {work}"))));
    for (me, run) in runs {
        let expected: String = (1..=8).rev().map(|i| format!("{me} {i}\n")).collect();
        assert_eq!(run.wait().ok().out(), expected + "third\n");
    }
    before.assert_still();
}
