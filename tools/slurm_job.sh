#!/usr/bin/env bash
# A job for several nodes, torchrun on each, that requeues itself when it is preempted:
#   sbatch -p PARTITION -N NODES --gres=gpu:GPUS tools/slurm_job.sh CONFIG WORK_DIR [arguments of train.py]
#   PROCESSES: processes a node (default: its GPUs, or 1); PYTHON names another interpreter
# Slurm warns 90 s before the time limit; torchrun passes SIGTERM on and waits, every rank saves and
# leaves (mmkd.PreemptionHook), and the job is put back in the queue. `--resume` starts anew where
# there is no checkpoint yet.
#SBATCH --job-name=mmkd
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@90
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# *//p' "$0" >&2; exit 2; }
CONFIG="$1" WORK_DIR="$2"
TOOLS="${MMKD_TOOLS:-$SLURM_SUBMIT_DIR/tools}"  # Slurm runs a copy of this file from elsewhere
STARTED="$(mktemp)"
# torchrun's own 30 s would cut the saving short. (SIGUSR1, too, is passed on: mmkd/apis/launch.py.)
export PET_SHUTDOWN_TIMEOUT="${PET_SHUTDOWN_TIMEOUT:-85}"
HEAD="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
srun --kill-on-bad-exit=0 "${PYTHON:-python}" -m mmkd.apis.launch --nnodes="$SLURM_NNODES" \
    --nproc_per_node="${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}" --rdzv_backend=c10d --rdzv_id="$SLURM_JOB_ID" \
    --rdzv_endpoint="$HEAD:${PORT:-29500}" "$TOOLS/train.py" "$CONFIG" --work-dir "$WORK_DIR" --launcher pytorch --resume "${@:3}"
STATUS=$?
# A failure on one node ends the others with other statuses; the checkpoint tells a preemption from a fault.
# `pretrain_preempted` is that of a stage before (`pretrain`), whose own folder may be elsewhere.
SAVED="$(find "$WORK_DIR" -maxdepth 1 \( -name last_checkpoint -o -name pretrain_preempted \) -newer "$STARTED" \
    -exec grep -l preempted_iter {} +)"
if [ $STATUS -ne 0 ] && [ -n "$SAVED" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $STATUS
