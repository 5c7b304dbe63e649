# What people type; each recipe calls a script or cargo, as CI does.

default:
    @just --list

# Format the sources
fmt:
    cargo fmt --all

# Formatting and lints, warnings denied
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Every test: as the caller, and as root also as an ordinary user
test *SUITES:
    scripts/test.sh {{SUITES}}

# The suites in both regimes and by both transports; "external": pjdfstest, fsx and stress so
test-every-way *SUITES:
    scripts/every-way.sh {{SUITES}}

# The core against the reference model, longer than CI does
model CASES="2000":
    AGENTFS_MODEL_CASES={{CASES}} cargo test -p agentfs-tests --test model

# Random operations on a real mount and on a plain directory
mount:
    scripts/test.sh diff

# Whole runs
run:
    scripts/test.sh run_main run_machine run_signals run_branches run_view run_names bad_input

# Kills at random moments of real loads: nothing acknowledged may be lost
crash KILLS="1000":
    scripts/crash.sh {{KILLS}}

# Damaged files and messages, each kind for SECONDS
fuzz SECONDS="60":
    scripts/fuzz.sh {{SECONDS}}

# The example project of the README
demo:
    scripts/demo.sh

# What CI does
ci:
    .ci/run

# File operations on a mount: names, links, times, attributes, locks, owners, space
test-fuse-basic-ops:
    scripts/fuse-suite.sh fuse-basic-ops posix basic:: listings:: owners:: space::

# What must be refused, with which errno
test-fuse-negative-ops:
    scripts/fuse-suite.sh fuse-negative-ops posix negative::

# Copy-up, whiteouts, opaque directories, hard links, a base that changes
test-fuse-overlay-ops:
    scripts/fuse-suite.sh fuse-overlay-ops posix overlay::

# Attributes, links and listings while other threads change and look
test-fuse-races:
    scripts/fuse-suite.sh fuse-races posix races::

# A hundred times mount and unmount: nothing may be left
test-fuse-mount-cycle CYCLES="100":
    AGENTFS_MOUNT_CYCLES={{CYCLES}} scripts/fuse-suite.sh fuse-mount-cycle mounts cycles the_daemon

# Mounts that cannot be, a killed daemon, remounts
test-fuse-mount-failures:
    scripts/fuse-suite.sh fuse-mount-failures mounts mounts_that a_ remounts the_helper root_only

# Many mounts at once
test-fuse-mount-concurrent:
    scripts/fuse-suite.sh fuse-mount-concurrent mounts many one

# Several branches on one mount: bound shells, their children, what is refused
test-fuse-control-plane:
    scripts/fuse-suite.sh fuse-control-plane control_plane ""

# pjdfstest, the tests of one system call: "rename", "chmod"
test-pjdfs-subset DIR:
    scripts/pjdfstest.sh {{DIR}}

# pjdfstest, all of it
test-pjdfstest-full:
    scripts/pjdfstest.sh

# fsx over new files and files of the base
test-fsx OPS="200000" SEEDS="10":
    scripts/fsx.sh {{OPS}} {{SEEDS}}

# Eight processes at once on one branch
test-fuse-stress SECONDS="60":
    scripts/stress.sh {{SECONDS}}

# What snapshots, branches and openings cost with many changed files (release build)
bench-store ROUNDS="15" *FILES:
    scripts/store-figures.sh {{ROUNDS}} {{FILES}}

# agentfs, as root and as a user, beside the host: the whole table, real work too (release build); --profile-missed tells why
bench *OPTIONS:
    scripts/bench.sh {{OPTIONS}}

# The same with kernel overlayfs, fuse-overlayfs and bwrap beside it
bench-peers *OPTIONS:
    scripts/bench.sh --subjects host,overlayfs,fuse-overlayfs,bwrap,agentfs,agentfs-user {{OPTIONS}}

# A few rows once, in seconds: to see whether a change matters at all
bench-short *OPTIONS:
    scripts/bench.sh --runs 3 --files 2000 --base-mib 64 --write-mib 64 --rows micro,find-warm,grep-warm,dirs-files,seq-write {{OPTIONS}}

# Sequential, metadata and concurrent work against thresholds; AGENTFS_PERF_SIZE_MIB and more in the script
test-fuse-performance *OPTIONS:
    scripts/fuse-performance.sh debug {{OPTIONS}}

# The same with the release build
test-fuse-performance-release *OPTIONS:
    scripts/fuse-performance.sh release {{OPTIONS}}

# A flame graph of the daemon while ROW of the bench runs
perf-profile ROW="tar-x" *OPTIONS:
    scripts/perf-profile.sh {{ROW}} {{OPTIONS}}

# 1, 10 and 50 runs at once on one base, and a base of a million files
bench-scale *OPTIONS:
    scripts/bench-scale.sh {{OPTIONS}}

# Show a branch at DIR, to try things by hand
mount-fuse DIR:
    scripts/mount-fuse.sh up {{DIR}}

# And take it away
umount-fuse DIR:
    scripts/mount-fuse.sh down {{DIR}}
