//! Prints the ten most frequent words of the files named on the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut text = String::new();
    for path in std::env::args().skip(1) {
        match std::fs::read_to_string(&path) {
            Ok(more) => text.push_str(&more),
            Err(e) => {
                eprintln!("{path}: {e}");
                return ExitCode::FAILURE;
            }
        }
    }
    for (word, count) in wordcount::top(&text, 10) {
        println!("{count:>5} {word}");
    }
    ExitCode::SUCCESS
}
