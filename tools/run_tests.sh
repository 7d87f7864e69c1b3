#!/usr/bin/env bash
# The tests, in the same environment as the quickstart's: bash tools/run_tests.sh [--stack original] [--checks] [pytest arguments]
#   --stack original   with OpenMMLab's own packages (tools/setup_env.sh), what tests/original_stack.txt selects
#   --checks           first what reads the code alone: ruff, mypy, the import contract and the documentation
set -euo pipefail
if [ "${1:-}" = --stack ]; then
    [ "$#" -ge 2 ] || { echo "usage: bash tools/run_tests.sh [--stack original] [--checks] [pytest arguments]" >&2; exit 2; }
    export MMKD_STACK="$2"
    shift 2
fi
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/setup_env.sh"
cd "$ROOT"
setup_env
if [ "${1:-}" = --checks ]; then
    shift
    "$PY" -m ruff check .
    "$PY" -m ruff format --check .
    "$PY" -m mypy
    "$VENV/bin/lint-imports"
    # Not --quiet: --strict would see no warning.
    NO_MKDOCS_2_WARNING=1 "$PY" -m mkdocs build --strict
fi
# One process a core; the small networks of the tests gain nothing from more threads. loadfile: what a
# file sets up is set up once; the longest files come first (tests/conftest.py).
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ "$STACK" = original ]; then  # `+ PATH`, `- TEST why not`
    mapfile -t selected < <(sed -n 's/^+ \([^ ]*\).*/\1/p; s/^- \([^ ]*\).*/--deselect=\1/p' tests/original_stack.txt)
    set -- ${selected[@]+"${selected[@]}"} "$@"
fi
exec "$PY" -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
