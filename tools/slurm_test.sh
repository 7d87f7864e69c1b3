#!/usr/bin/env bash
# Test on a Slurm cluster, one task a GPU:
#   [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS="..."] bash tools/slurm_test.sh PARTITION JOB CONFIG CHECKPOINT [arguments of test.py]
#   GPUS_PER_NODE=0 asks for no GPU: GPUS is then the number of CPU tasks, which use gloo
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
PARTITION="$1" JOB="$2" CONFIG="$3" CHECKPOINT="$4"
source "$(dirname "$0")/slurm_tasks.sh"
exec srun "${SLURM_TASKS[@]}" "${PYTHON:-python}" -u "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher slurm "${@:5}"
