#!/usr/bin/env bash
# Test on several processes:
#   bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [arguments of test.py]
#   NNODES, NODE_RANK, MASTER_ADDR, PORT for several machines; PYTHON names another interpreter
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
CONFIG="$1" CHECKPOINT="$2" PROCESSES="$3"
[[ "$PROCESSES" =~ ^([1-9][0-9]*|auto|cpu|gpu)$ ]] || { echo "error: PROCESSES: expected a number >= 1, got '$PROCESSES'" >&2; exit 2; }
exec "${PYTHON:-python}" -m mmkd.apis.launch --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$PROCESSES" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
