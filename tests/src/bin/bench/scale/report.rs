//! summary.json and report.md of the scale.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::Scale;
use super::memory::Memory;
use crate::Fallible;

/// What an idle branch may take.
const MOST_MIB: f64 = 10.0;

pub fn write(logs: &Path, scale: &Scale) -> Fallible<()> {
    fs::write(logs.join("summary.json"), serde_json::to_vec_pretty(scale)?)?;
    let text = text(scale)?;
    fs::write(logs.join("report.md"), &text)?;
    println!("{text}");
    Ok(())
}

fn memory(memory: &Memory) -> String {
    format!("{:.1} / {:.1}", memory.rss_mib, memory.pss_mib)
}

fn text(scale: &Scale) -> Fallible<String> {
    let mut out = String::new();
    let machine = &scale.machine;
    writeln!(out, "# Scale, measured {}\n", scale.started)?;
    writeln!(
        out,
        "- Linux {}, {} x {}, {} MiB",
        machine.kernel, machine.cpus, machine.cpu, machine.memory_mib
    )?;
    writeln!(
        out,
        "- {} on {}; load at the begin {:.1}",
        scale.subject, scale.disk, scale.load
    )?;
    writeln!(
        out,
        "\n## Runs at once on one base\n\nMemory is RSS / PSS in MiB, of a branch that idles, on average. A branch is its \
         daemon and all other processes of the run but the command. The bar is {MOST_MIB} MiB a branch, by PSS: pages \
         of the programs are shared.\n"
    )?;
    writeln!(
        out,
        "| live | start, median (max) | start of `true` beside them | daemon | branch | bar | idle CPU, all daemons | operations/s, all | host |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    for crowd in &scale.crowds {
        let mark = if crowd.branch.pss_mib <= MOST_MIB {
            "met"
        } else {
            "MISSED"
        };
        writeln!(
            out,
            "| {} | {:.1} ms ({:.1}) | {:.1} ms | {} | {} | {mark} | {:.1} ms/s | {:.0} | {:.0} |",
            crowd.live,
            crowd.start_ms.median,
            crowd.start_ms.max,
            crowd.start_beside_ms.median,
            memory(&crowd.daemon),
            memory(&crowd.branch),
            crowd.idle_cpu_ms_a_second,
            crowd.operations_per_second,
            crowd.host_operations_per_second
        )?;
    }
    if let Some(million) = &scale.million {
        writeln!(
            out,
            "\n## A base of {} files, on {}\n",
            million.files, million.disk
        )?;
        writeln!(out, "| | agentfs | host |\n|---|---|---|")?;
        writeln!(
            out,
            "| start of `true` on a new branch | {:.1} ms | |",
            million.start_ms.median
        )?;
        writeln!(
            out,
            "| first `git status` of a branch | {:.2} s | {:.2} s |",
            million.first_status_s, million.host_status_s
        )?;
        writeln!(out, "| second | {:.2} s | |", million.second_status_s)?;
        writeln!(
            out,
            "| walk with a stat of each file | {:.2} s | {:.2} s |",
            million.walk_s, million.host_walk_s
        )?;
        writeln!(
            out,
            "| memory of the daemon at the start | {} MiB | |",
            memory(&million.memory_at_start)
        )?;
        writeln!(
            out,
            "| after the walk | {} MiB | |",
            memory(&million.memory_after_walk)
        )?;
        if let Some(after) = &million.memory_after_pressure {
            writeln!(
                out,
                "| after the kernel's caches were dropped | {} MiB | |",
                memory(after)
            )?;
        }
    }
    for failed in &scale.failed {
        writeln!(out, "\nFailed: {failed}")?;
    }
    Ok(out)
}
