#!/usr/bin/env bash
# Fetches the third-party crate that the main job is shown on, with its dependencies, so that its
# tests can run offline: DIR/crate holds its sources and a lock file, DIR/cargo-home the rest.
#
#   fetch-crate.sh DIR
set -euo pipefail

dir=${1:?usage: fetch-crate.sh DIR}
name=walkdir version=2.5.0
host=$(rustc -vV | sed -n 's/^host: //p')

if [ -e "$dir/crate/Cargo.lock" ] && [ "$(cat "$dir/version" 2>/dev/null)" = "$name $version" ]; then
  exit 0
fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
rm -rf "$dir/crate" "$dir/cargo-home" "$dir/ask" "$dir/version"
# What the machine's cargo needs to reach the registry.
mkdir -p "$dir/cargo-home" "$dir/ask/src"
for config in config.toml config; do
  from=${CARGO_HOME:-$HOME/.cargo}/$config
  if [ -e "$from" ]; then cp "$from" "$dir/cargo-home/$config"; fi
done
export CARGO_HOME=$dir/cargo-home
cat >"$dir/ask/Cargo.toml" <<TOML
[package]
name = "ask"
version = "0.0.0"
edition = "2021"
[dependencies]
$name = "=$version"
[workspace]
TOML
: >"$dir/ask/src/lib.rs"
(cd "$dir/ask" && cargo fetch --target "$host")
sources=("$CARGO_HOME"/registry/src/*/"$name-$version")
cp -r "${sources[0]}" "$dir/crate"
# A checkout of its own: its lock file fixes the dependencies, its tests' included.
printf '\n[workspace]\n' >>"$dir/crate/Cargo.toml"
(cd "$dir/crate" && cargo fetch --target "$host")
rm -rf "$dir/ask"
echo "$name $version" >"$dir/version"
