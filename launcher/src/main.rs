//! `agentfs`.

fn main() -> std::process::ExitCode {
    agentfs_launcher::agentfs()
}
