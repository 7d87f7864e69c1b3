#!/usr/bin/env bash
# A Slurm cluster of one node on loopback, for tests: bash tests/slurm_cluster.sh start|stop FOLDER
# Needs Debian's slurm-wlm and munge (apt-get install slurm-wlm munge) and root. After `start`, with
# SLURM_CONF=FOLDER/slurm.conf in the environment, srun, sbatch, squeue and scancel work on it.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
ACTION="$1" DIR="$(mkdir -p "$2" && cd "$2" && pwd)"
HOST="$(hostname -s)"

stop() {
    for name in slurmd slurmctld munged; do
        [ -f "$DIR/$name.pid" ] && kill "$(cat "$DIR/$name.pid")" 2>/dev/null || true
    done
}

case "$ACTION" in
stop) stop ;;
start)
    mkdir -p "$DIR"/{state,spool,munge}
    chmod 700 "$DIR/munge"
    [ -f "$DIR/munge/key" ] || { head -c 1024 /dev/urandom >"$DIR/munge/key"; chmod 400 "$DIR/munge/key"; }
    chown -R root:root "$DIR/munge"
    /usr/sbin/munged --force --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" --pid-file="$DIR/munged.pid" \
        --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed"
    cat >"$DIR/slurm.conf" <<EOF
ClusterName=mmkd
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$DIR/munge/socket
SlurmctldPort=${SLURM_TEST_PORT:-17817}
SlurmdPort=$((${SLURM_TEST_PORT:-17817} + 1))
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
InactiveLimit=0
KillWait=30
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$(nproc --all) State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
    export SLURM_CONF="$DIR/slurm.conf"
    /usr/sbin/slurmctld
    /usr/sbin/slurmd
    for _ in $(seq 60); do
        [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && exit 0
        sleep 0.5
    done
    sinfo >&2 || true
    tail -n 20 "$DIR"/slurm{ctld,d}.log >&2
    stop
    exit 1
    ;;
*) echo "expected start or stop, got $ACTION" >&2; exit 2 ;;
esac
