#!/usr/bin/env bash
# From a checkout to a trained teacher, two students and their ensemble: bash tools/quickstart.sh
#   MMKD_VENV   where the virtual environment goes (default: .venv in this checkout); more in tools/setup_env.sh
# Needs Python 3.10 or newer, pip, git and a C++ compiler. Run it again after a failure: what is done is not done again.
set -euo pipefail
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/setup_env.sh"
# Threads that spin while they wait stall each other where the cores are busy: a step took ten times as long.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

CONFIG=configs/mmkd/polyp_yolox_kdml_demo.py
WORK_DIR="work_dirs/quickstart"

cd "$ROOT"
SECONDS=0
setup_env
RUN_LOG="$WORK_DIR/train.log"
mkdir -p "$WORK_DIR"

say "Making the synthetic polyp set data/synthetic_polyps (10 seconds, nothing if it is there)"
run "making the synthetic set" "Is data/synthetic_polyps another set? Remove it, or see: $PY tools/make_synthetic.py --help" \
    "$PY" tools/make_synthetic.py

say "Training a teacher and two students: $CONFIG (about 4 minutes on 2 cores; log: $RUN_LOG)"
# The stage lines of the log are shown as they come; the whole goes to the file.
"$PY" tools/train.py "$CONFIG" --work-dir "$WORK_DIR" >"$RUN_LOG" 2>&1 &
TRAIN=$!
trap 'kill $TRAIN 2>/dev/null || true' INT TERM EXIT
tail -n +1 -f --pid=$TRAIN "$RUN_LOG" 2>/dev/null \
    | grep --line-buffered -oE 'Epoch\(train\) +\[[0-9]+\]\[ *[0-9]+/[0-9]+\] +eta: [0-9:]+' | sed -u 's/^/  /' &
wait $TRAIN || { tail -n 15 "$RUN_LOG" >&2; fail "training" "The whole output is in $RUN_LOG; part by part: $PY tools/doctor.py"; }
trap - INT TERM EXIT

say "Testing each member and the ensemble, drawing, exporting (half a minute)"
"$PY" tools/report.py "$WORK_DIR" >"$WORK_DIR/report.log" 2>&1 \
    || { tail -n 15 "$WORK_DIR/report.log" >&2; fail "the report" "The whole output is in $WORK_DIR/report.log"; }
sed -n '/^member /,$p' "$WORK_DIR/report.log"
say "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. Next: docs/quickstart.md, 'Train on your own data'."
