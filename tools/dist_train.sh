#!/usr/bin/env bash
# Train on the processes (GPUs, or CPU processes with gloo) of one or several machines:
#   bash tools/dist_train.sh CONFIG PROCESSES [arguments of train.py]
#   NNODES, NODE_RANK, MASTER_ADDR, PORT for several machines; PYTHON names another interpreter
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
CONFIG="$1" PROCESSES="$2"
[[ "$PROCESSES" =~ ^([1-9][0-9]*|auto|cpu|gpu)$ ]] || { echo "error: PROCESSES: expected a number >= 1, got '$PROCESSES'" >&2; exit 2; }
# torchrun passes signals on (SIGUSR1, too: mmkd/apis/launch.py) and waits: all processes save a checkpoint and leave (mmkd.PreemptionHook).
export PET_SHUTDOWN_TIMEOUT="${PET_SHUTDOWN_TIMEOUT:-85}"
exec "${PYTHON:-python}" -m mmkd.apis.launch --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$PROCESSES" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
