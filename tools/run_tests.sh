#!/usr/bin/env bash
# The tests, in the same environment as the quickstart's: bash tools/run_tests.sh [pytest arguments]
set -euo pipefail
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/setup_env.sh"
cd "$ROOT"
setup_env
exec "$PY" -m pytest "$@"
