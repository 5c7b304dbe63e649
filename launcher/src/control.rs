//! `agentfs-control-cli`.

fn main() -> std::process::ExitCode {
    agentfs_launcher::control_cli()
}
