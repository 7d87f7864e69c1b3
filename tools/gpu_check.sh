#!/usr/bin/env bash
# What only a GPU can show, on a bare CUDA machine without network, as one command:
#   bash tools/gpu_check.sh --wheels DIR [--minutes 35] [--out DIR] [--dry-run]
# Builds the environment (mmcv's ops for CUDA among it) from a folder of packages, runs the tests marked gpu, then
# tools/benchmark.py at real sizes: YOLOX-m and two tiny at 640, SegFormer-B2 and two B0 at 512, ResNet-50 and two ResNet-18 at
# 224, in float32, with mixed precision, in turns and compiled, and on one and all GPUs. Each part has a log and its figures in
# the out folder; gpu_check.json and gpu_check.md are written anew after each, so that a cut-off session still counts.
#   --wheels    a folder of packages, filled where there is a network, with the same Python:
#               pip download -d DIR -c requirements/pinned.txt pip setuptools wheel torch==2.13.0 -r requirements/build.txt
#               pip download -d DIR --no-deps --no-build-isolation --no-binary :all: onedl-mmcv==2.3.6   (where torch is installed)
#               pip download -d DIR -c requirements/pinned.txt ".[onedl,onnx,pretrained,report,tests,docs]"
#               Default: the package index.
#   --minutes   for all of it (default: 35)
#   --out       a new or empty folder, or that of an earlier check, which is replaced (default: work_dirs/gpu_check)
#   --dry-run   the same way on a machine without GPU: nothing is installed, images are small, batches of 2, one step each
#   MMKD_VENV   the environment (default: .venv in this checkout); more in tools/setup_env.sh
set -euo pipefail
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/setup_env.sh"

MINUTES=35 OUT=work_dirs/gpu_check DRY=0 WHEELS=
while [ $# -gt 0 ]; do
    case "$1" in
        --minutes)
            [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || fail "$1: expected a number from 1 on, got '${2:-}'"
            MINUTES=$2; shift 2;;
        --out) [ -n "${2:-}" ] || fail "--out: expected a folder"; OUT=$(realpath -m "$2"); shift 2;;
        --wheels) [ -d "${2:-}" ] || fail "--wheels: no folder '${2:-}'"; WHEELS=$(cd "$2" && pwd); shift 2;;
        --dry-run) DRY=1; shift;;
        -h|--help) sed -n '2,/^set -/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit;;
        *) fail "unknown option $1" "bash tools/gpu_check.sh --help";;
    esac
done
cd "$ROOT"
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
if [ ! -e "$OUT/parts.tsv" ] && [ -n "$(ls -A "$OUT")" ]; then
    fail "--out: '$OUT' is not empty and holds no earlier check (parts.tsv); its files would be removed"
fi
rm -f "$OUT"/*.json "$OUT"/*.md "$OUT"/*.log "$OUT"/parts.tsv
START=$(date +%s) FAILED=()

# part NAME SECONDS COMMAND...: one part within its time and what is left; the next one follows in any case.
part() {
    local name=$1 limit=$2 began left status=0; shift 2
    began=$(date +%s) left=$((MINUTES * 60 - began + START))
    [ "$DRY" = 0 ] || limit=$((limit * 10))
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -le 0 ]; then
        say "$name: the $MINUTES minutes are over"; status=over
    else
        say "$name (at most $limit s)"
        timeout --signal=TERM --kill-after=20 "$limit" "$@" >"$OUT/$name.log" 2>&1 || status=$?
        [ "$status" = 0 ] || { [ "$status" != 124 ] || status=over; say "$name: $status"; tail -n 5 "$OUT/$name.log"; }
    fi
    [ "$status" = 0 ] || FAILED+=("$name")
    printf '%s\t%s\t%s\n' "$name" "$status" "$(($(date +%s) - began))" >>"$OUT/parts.tsv"
    summarize
    [ "$status" = 0 ]
}

# One JSON and one table of what there is so far; needs no package.
summarize() {
    "${MMKD_PYTHON:-python3}" - "$OUT" <<'PY'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
gpu = out / 'gpu.txt'
parts = {}
for line in (out / 'parts.tsv').read_text().splitlines():
    name, status, seconds = line.split('\t')
    figures, log = out / f'{name}.json', out / f'{name}.log'
    parts[name] = dict(status={'0': 'ok'}.get(status, status), seconds=int(seconds))
    if status == '0' and figures.is_file():
        parts[name]['figures'] = json.loads(figures.read_text())
    if log.is_file():
        parts[name]['end'] = log.read_text(errors='replace').strip().splitlines()[-12:]
found = dict(gpu=gpu.read_text().split('\n')[:-1] if gpu.is_file() else [], parts=parts)
(out / 'gpu_check.json').write_text(json.dumps(found, indent=1) + '\n')
rows = ['| part | result | seconds |', '|---|---|---|']
rows += [f'| {name} | {part["status"]} | {part["seconds"]} |' for name, part in parts.items()]
for name, part in parts.items():
    if 'figures' in part or name == 'tests':
        rows += ['', f'### {name}', '```', *part.get('end', []), '```']
(out / 'gpu_check.md').write_text('\n'.join([*found['gpu'], '', *rows]) + '\n')
PY
}

benchmark() {  # NAME SECONDS CONFIG OPTION...: OPTIONs before -- are --cfg-options, those after it benchmark.py's
    local name=$1 limit=$2 config=$3 options=(); shift 3
    while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
    [ $# -eq 0 ] || shift
    [ "${#TRIAL[@]}" -eq 0 ] || options+=("${TRIAL[@]}")
    [ "${#options[@]}" -eq 0 ] || set -- "$@" --cfg-options "${options[@]}"
    part "$name" "$limit" "$PY" tools/benchmark.py "configs/mmkd/benchmark/$config.py" --steps "$STEPS" --json "$OUT/$name.json" \
        "$@" || true
}

STEPS=20 SIZE=640 TRIAL=() GPUS=1 AMP=(optim_wrapper.type=AmpOptimWrapper optim_wrapper.loss_scale=dynamic)
if [ "$DRY" = 0 ]; then
    command -v nvidia-smi >/dev/null 2>&1 || fail "no NVIDIA driver (nvidia-smi)" "Without a GPU: bash tools/gpu_check.sh --dry-run"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$OUT/gpu.txt"
    GPUS=$(wc -l <"$OUT/gpu.txt")
    [ -z "$WHEELS" ] || export PIP_NO_INDEX=1 PIP_FIND_LINKS="file://${WHEELS// /%20}"  # pip splits it at spaces
    MMKD_CUDA=1 part environment 1200 bash tools/setup_env.sh || fail "no environment" "See $OUT/environment.log"
    part cuda 60 "$PY" -c 'import torch; assert torch.cuda.is_available(); print(torch.__version__, torch.cuda.get_device_name())' \
        || fail "torch sees no GPU" "Does the driver fit torch's CUDA version?"
else
    STEPS=1 SIZE=64 AMP=(optim_wrapper.type=AmpOptimWrapper optim_wrapper.dtype=bfloat16)
fi
part doctor 60 "$PY" tools/doctor.py || true
part tests 600 "$PY" -m pytest -m gpu -p no:cacheprovider -q --junitxml="$OUT/tests.xml" tests || true
part data 120 "$PY" tools/make_synthetic.py --out data/synthetic_640 --train 64 --val 8 --size "$SIZE" --overwrite || true
for variant in plain amp turns compiled; do  # what matters most first, of all three
    for config in yolox_m_640 segformer_b2_512 resnet50_224; do
        if [ "$DRY" = 1 ]; then
            place=2; [ "$config" != resnet50_224 ] || place=1
            TRIAL=(train_dataloader.batch_size=2 "train_dataloader.dataset.pipeline.$place.scale=(64,64)")
            [ "$config" != segformer_b2_512 ] || TRIAL+=("model.data_preprocessor.size=(64,64)")
        fi
        case "$variant" in
            plain) benchmark "$config" 240 "$config";;
            amp) benchmark "${config}_amp" 180 "$config" -- --against "${AMP[@]}";;
            turns) benchmark "${config}_turns" 180 "$config" -- --members 3;;
            compiled) benchmark "${config}_compiled" 240 "$config" -- --against model.compile=True;;
        esac
    done
done
COUNTS=(1); [ "$GPUS" -lt 2 ] || COUNTS+=("$GPUS")
benchmark processes 180 resnet50_224 -- --processes "${COUNTS[@]}"
say "In $OUT: gpu_check.json, gpu_check.md${FAILED[*]:+; not finished: ${FAILED[*]}}"
[ "${#FAILED[@]}" -eq 0 ]
