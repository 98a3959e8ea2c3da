#!/usr/bin/env bash
# Runs every check: formatting, lints, documentation, and all tests, including the tests with third-party readers.
# Installs the third-party readers under target/.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -x target/venv/bin/python ]; then
    mkdir -p target
    python3 -m venv target/venv
fi
if ! command -v strace >/dev/null; then
    # tests/power.rs uses strace to check the order of writes.
    apt-get update -qq && apt-get install -y -qq strace
fi
if ! command -v promtool >/dev/null && command -v apt-get >/dev/null; then
    # promtool checks samples/alerts.yml. It is extracted from the package, and the Prometheus server is not installed.
    [ -x target/prometheus/usr/bin/promtool ] || (cd target && apt-get update -qq && apt-get -o APT::Sandbox::User=root download -qq prometheus &&
        dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb)
    export PATH="$PATH:$PWD/target/prometheus/usr/bin"
fi
target/venv/bin/pip install --quiet --disable-pip-version-check -r tests/foreign/requirements.txt

cargo fmt --check
cargo clippy --locked --all-targets --quiet -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet
cargo test --locked --quiet --doc
cargo test --locked --no-fail-fast --tests -- --include-ignored
