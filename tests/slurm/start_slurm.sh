#!/bin/bash
# start_slurm.sh DIR - run a real Slurm (as Debian 12 packages it) of NODES simulated nodes
# on this one machine, without systemd, cgroups or any file in /etc.
#
#   DIR=$(mktemp -d); chmod 755 $DIR; start_slurm.sh $DIR; . $DIR/env.sh; sbatch ...; stop_slurm.sh $DIR
#
# All configuration, state and logs lie in DIR; all traffic is on 127.0.0.1.
# Started as root, jobs run as whichever user submits them (DIR must then be
# reachable by that user); started as an ordinary user, only as that user.
# Idempotent: a running cluster in DIR is left as it is (whatever the options
# below), a broken one is stopped and started afresh: queue, job numbers and logs.
#
# Environment: NODES=2; CPUS=4, MEM_MB=64000, GPUS=0 (fake) a node: none of them
# need exist; GRACE=30 (seconds from a preemption's signal to the requeue);
# BASE_PORT (default: the first free block from 16800); WAIT=30 (seconds).
set -euo pipefail
umask 022

DIR=$(realpath -m "${1:?usage: start_slurm.sh DIR}")
NODES=${NODES:-2} CPUS=${CPUS:-4} MEM_MB=${MEM_MB:-64000} GPUS=${GPUS:-0} GRACE=${GRACE:-30} WAIT=${WAIT:-30}
HERE=$(dirname "$(realpath "$0")")
PATH=$PATH:/usr/sbin:/sbin

die() {
    echo "start_slurm: $*" >&2
    for f in "$DIR"/log/*; do [ -s "$f" ] && { echo "--- $f"; tail -n 15 "$f"; } >&2; done
    [ -z "${launched:-}" ] || SLURM_LOCKED=1 "$HERE/stop_slurm.sh" "$DIR"   # leave nothing half started
    exit 1
}

# Unix sockets below DIR (munge's, and one for each job step) allow 107 characters.
[ ${#DIR} -le 60 ] || die "path too long for unix sockets (${#DIR} > 60): $DIR"

mkdir -p "$DIR"/{log,run,state,spool}
exec 9>"$DIR/lock"; flock -w 120 9 || die "another start or stop holds $DIR/lock"
export SLURM_CONF=$DIR/slurm.conf

for command in slurmctld slurmd sbatch munged; do
    command -v $command >/dev/null || die "$command is missing: apt-get install slurmctld slurmd slurm-client munge"
done

ours() { # FILE: sets pid if the process recorded in FILE is still the same one
    local start
    [ -f "$1" ] && read -r pid start <"$1" && [ "$(awk '$3 != "Z" {print $22}' "/proc/$pid/stat" 2>/dev/null)" = "$start" ]
}
running() { # every daemon recorded here lives, and slurmctld answers
    local f
    [ -f "$DIR/run/slurmctld.pid" ] && for f in "$DIR"/run/*.pid; do ours "$f" || return 1; done &&
        timeout 5 scontrol ping 2>/dev/null | grep -q 'is UP'
}
ready() { # every node has reported and is free for jobs ("idle*" is one that has not yet)
    [ "$(timeout 5 sinfo -h -N -o '%N %t' 2>/dev/null | sort -u | grep -Ec ' (idle|mix|alloc)$')" = "$NODES" ]
}
if running; then echo "Slurm is already up in $DIR"; exit 0; fi
SLURM_LOCKED=1 "$HERE/stop_slurm.sh" "$DIR"   # whatever is left of an earlier start
rm -rf "$DIR"/{log,state,spool}/*

# 1. Ports: one for slurmctld, then one for each node.
in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
block_free() { local p; for ((p = $1; p <= $1 + NODES; p++)); do ! in_use $p || return 1; done; }
if [ -z "${BASE_PORT:-}" ]; then
    for ((BASE_PORT = 16800; BASE_PORT < 17800; BASE_PORT += 50)); do block_free $BASE_PORT && break; done
fi
block_free "$BASE_PORT" || die "a port in $BASE_PORT..$((BASE_PORT + NODES)) is in use"

# 2. Configuration.
USER_NAME=$(id -un)
# No*InAddrAny binds every port to the address of the host's name, so use it only if that is loopback.
comm=
[[ $(getent ahostsv4 "$(hostname)" | awk 'NR==1{print $1}') == 127.* ]] && comm=NoInAddrAny,NoCtldInAddrAny
gres=; rm -f "$DIR/gres.conf"
if [ "$GPUS" -gt 0 ]; then  # fake: --gres=gpu:N is granted and CUDA_VISIBLE_DEVICES set; a File must be a device
    for ((i = 0; i < GPUS; i++)); do ln -sf /dev/null "$DIR/run/gpu$i"; done
    echo "AutoDetect=off
Name=gpu File=$DIR/run/gpu[0-$((GPUS - 1))]" >"$DIR/gres.conf"
    gres="Gres=gpu:$GPUS"
fi
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$BASE_PORT
SlurmUser=$USER_NAME
SlurmdUser=$USER_NAME
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it starts again (default 120 s)
AuthInfo=socket=$DIR/run/munge.socket,cred_expire=5
${comm:+CommunicationParameters=$comm}
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.slurmpid
SlurmdPidFile=$DIR/run/%n.slurmpid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/%n.log
MailProg=/bin/true
# No cgroups, no CPU binding, and a node's size is what NodeName says, not what the machine has
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# Short delays, for tests; a finished job stays visible to scontrol/squeue for an hour
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
KillWait=5
MinJobAge=3600
# There is no slurmdbd: one line for each finished job, which 'sacct -c' reads
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/jobcomp.txt
# A job in "high" preempts one in "main": its --signal (else SIGTERM) is sent, and after GraceTime it is requeued
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
${gres:+GresTypes=gpu}
NodeName=node[1-$NODES] NodeAddr=127.0.0.1 Port=[$((BASE_PORT + 1))-$((BASE_PORT + NODES))] CPUs=$CPUS RealMemory=$MEM_MB $gres State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=$GRACE MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
CONF
printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" >"$DIR/env.sh"

# 3. Daemons, in the foreground of background jobs, so that $! is the daemon itself.
launch() { # NAME COMMAND...: starts it and records its pid and start time (a pid alone may be reused)
    local name=$1; shift; launched=1; cd /
    setsid "$@" >"$DIR/log/$name.out" 2>&1 </dev/null 9>&- &
    echo "$! $(awk '{print $22}' /proc/$!/stat)" >"$DIR/run/$name.pid"
}
wait_for() { # NAME SECONDS COMMAND...: until COMMAND succeeds while the daemon NAME lives
    local name=$1 end=$((SECONDS + $2)); shift 2
    until "$@"; do
        ours "$DIR/run/$name.pid" || die "$name ended"
        ((SECONDS < end)) || die "$name: not ready in time ($*)"
        sleep 0.2
    done
}

rm -f "$DIR/run/munge.key"
(umask 077; head -c 128 /dev/urandom >"$DIR/run/munge.key")
launch munged munged --foreground --force --socket="$DIR/run/munge.socket" --key-file="$DIR/run/munge.key" \
    --pid-file="$DIR/run/munged.slurmpid" --seed-file="$DIR/run/munged.seed" --log-file="$DIR/log/munged.log"
wait_for munged 10 test -S "$DIR/run/munge.socket"

launch slurmctld slurmctld -D -c -f "$SLURM_CONF"

# Each slurmd gets a hostname and an /etc/hosts of its own (in private namespaces, the machine's are
# untouched), so that in jobs `hostname` says node2 and MASTER_ADDR=node1 resolves.
{ cat /etc/hosts; for ((i = 1; i <= NODES; i++)); do echo "127.0.0.1 node$i"; done; } >"$DIR/hosts"
ns=(unshare --mount --uts --propagation slave)
[ "$(id -u)" = 0 ] || ns=(unshare --user --map-current-user --keep-caps "${ns[@]:1}")
ns+=(sh -c 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec setpriv --ambient-caps=-all "$@"' sh)
if ! "${ns[@]}" test "$DIR/hosts" true 2>/dev/null; then
    echo "start_slurm: no namespaces here: node names do not resolve in jobs, so set MASTER_ADDR=127.0.0.1 there" >&2
    ns=()
fi
for ((i = 1; i <= NODES; i++)); do
    mkdir -p "$DIR/spool/node$i"
    launch node$i ${ns[@]:+"${ns[@]}" node$i "$DIR/hosts"} slurmd -D -N node$i -f "$SLURM_CONF"
done

wait_for slurmctld "$WAIT" ready
echo "Slurm is up: $NODES nodes of $CPUS CPUs${gres:+, $gres}; use it with: . $DIR/env.sh"
