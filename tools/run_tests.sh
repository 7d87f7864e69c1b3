#!/usr/bin/env bash
# The tests, in the same environment as the quickstart's: bash tools/run_tests.sh [pytest arguments]
set -euo pipefail
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/setup_env.sh"
cd "$ROOT"
setup_env
# One process a core; the small networks of the tests gain nothing from more threads. loadfile: what a file sets up is set up once.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PY" -m pytest -n auto --dist loadfile "$@"
