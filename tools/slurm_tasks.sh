# Sourced by slurm_train.sh and slurm_test.sh: SLURM_TASKS, srun's arguments for GPUS tasks of the job $JOB in $PARTITION.
GPUS="${GPUS:-8}" GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
PER_NODE=$((GPUS_PER_NODE > 0 && GPUS_PER_NODE < GPUS ? GPUS_PER_NODE : GPUS))
SLURM_TASKS=(-p "$PARTITION" --job-name="$JOB" --ntasks="$GPUS" --ntasks-per-node="$PER_NODE"
             --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1)
[ "$GPUS_PER_NODE" -eq 0 ] || SLURM_TASKS+=(--gres="gpu:$PER_NODE")
read -r -a EXTRA <<<"${SRUN_ARGS:-}"
SLURM_TASKS+=(${EXTRA[@]+"${EXTRA[@]}"})
