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

# The core against the reference model, longer than CI does
model CASES="2000":
    AGENTFS_MODEL_CASES={{CASES}} cargo test -p agentfs-tests --test model

# Random operations on a real mount and on a plain directory
mount:
    scripts/test.sh diff

# Whole runs
run:
    scripts/test.sh run_main run_signals run_branches run_view bad_input

# A killed daemon, again and again
crash:
    scripts/test.sh run_branches

# The example project of the README
demo:
    scripts/demo.sh

# What CI does
ci:
    .ci/run
