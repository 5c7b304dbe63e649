# shellcheck shell=bash
# Which suites of tests/tests run under whom. Sourced by test.sh; tests/tests/layering.rs fails
# when a file of tests/tests is in neither list.

# Whole runs, real mounts: as root and again as an ordinary user.
# shellcheck disable=SC2034
suites_both="run_main run_machine run_signals run_setup run_branches run_view run_policy run_names run_live_base programs programs_git review review_hidden snapshots points full_store quota bad_input streams diff semantics live_base mounts transport control_plane fsck gc crash model"

# Once more, as root, with requests by io_uring instead of /dev/fuse.
# shellcheck disable=SC2034
suites_ring="posix live_base transport semantics streams programs crash quota mounts run_machine"

# Once: nothing in them depends on who runs them, or only root can.
# shellcheck disable=SC2034
suites_once="layering bench leaks posix run_devices run_cached"

# Of these, those that serve no mount, and so are the same by every way of it: scripts/every-way.sh leaves
# them out.
# shellcheck disable=SC2034
suites_any_way="layering leaks"

# Of these, once more as root, over mounts whose files are used without being opened
# (AGENTFS_FUSE_REGIME=zero-open). That variable set for test.sh has all suites run so instead.
# shellcheck disable=SC2034
suites_zero_open="posix semantics snapshots mounts quota streams"
