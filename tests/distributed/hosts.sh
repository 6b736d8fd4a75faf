#!/usr/bin/env bash
# Training on two hosts, which are network namespaces of this machine, joined by a link of a limited rate:
#   tests/distributed/hosts.sh PROGRAM TEXT [RATE]       PROGRAM is train_gpt_ranks, RATE as tc has it, 100mbit
# Two ranks on each host have the bits of one process, also where every transfer is late; with the link taken down all end
# in time with a sentence, and --resume goes on to the same bits. As root, with iproute2; by hand, for it makes
# namespaces (which it removes).
set -euo pipefail
((EUID == 0)) || { echo "skipped: namespaces need root" && exit 77; }
command -v ip >/dev/null && command -v tc >/dev/null && command -v mpirun >/dev/null ||
  { echo "skipped: ip, tc or mpirun is missing" && exit 77; }
program=$(realpath "$1") text=$(realpath "$2") rate=${3:-100mbit}
scratch=$(mktemp -d) a=remat_a_$$ b=remat_b_$$
clean() {
  ip netns pids "$a" 2>/dev/null | xargs -r kill 2>/dev/null || true
  ip netns pids "$b" 2>/dev/null | xargs -r kill 2>/dev/null || true
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$scratch"
}
trap clean EXIT

ip netns add "$a"
ip netns add "$b"
ip link add veth_a netns "$a" type veth peer name veth_b netns "$b"
number=1
for host in a b; do
  ip -n "${!host}" address add "10.77.0.$number/24" dev "veth_$host"
  ip -n "${!host}" link set "veth_$host" up
  ip -n "${!host}" link set lo up
  ip netns exec "${!host}" tc qdisc add dev "veth_$host" root tbf rate "$rate" burst 256kb latency 100ms
  echo "10.77.0.$number slots=2" >>"$scratch/hosts"
  number=2
done
# What ssh would do: the words behind the name of the host, there. Each host has a name of its own, by which MPI tells
# ranks of one machine from those of another.
printf '#!/bin/bash\nshift\nexec ip netns exec %s unshare --uts bash -c "hostname remat-b; $*"\n' "$b" >"$scratch/agent"
chmod +x "$scratch/agent"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive REMAT_GEMM=own OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
flags=(--data "$text" --layers 2 --dims 64 --heads 2 --context 32 --batch 8 --micro-batches 4 --dropout 0.1 --steps 12
  --warmup 2 --save-every 4 --sample-length 10)
# on_hosts OUT [FLAG...]
on_hosts() {
  local out=$scratch/$1
  shift
  ip netns exec "$a" unshare --uts bash -c 'hostname remat-a; exec "$@"' - mpirun -np 4 --hostfile "$scratch/hosts" --bind-to none --mca plm_rsh_agent "$scratch/agent" \
    --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
    --mca oob_tcp_keepalive_time 2 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 2 \
    --mca mpi_yield_when_idle 0 -x OMP_NUM_THREADS -x OMP_WAIT_POLICY -x REMAT_GEMM -x REMAT_RANK_DELAY \
    -x REMAT_RANK_PATIENCE -x REMAT_RANK_OVERLAP "$program" "${flags[@]}" --out "$out" "$@"
}
same() {
  cmp "$scratch/one/model.safetensors" "$scratch/$1/model.safetensors" ||
    { echo "FAILED: $1 has other bits than one process" && exit 1; }
  echo "$1: the bits of one process"
}

"$program" "${flags[@]}" --out "$scratch/one" >"$scratch/one.log"
export REMAT_RANK_DELAY='' REMAT_RANK_PATIENCE='' REMAT_RANK_OVERLAP=${REMAT_RANK_OVERLAP:-}
for zero in 1 2; do
  on_hosts "zero_$zero" --zero "$zero" >"$scratch/log" || { cat "$scratch/log" && exit 1; }
  same "zero_$zero"
done
REMAT_RANK_DELAY=0.005 on_hosts late --zero 2 >"$scratch/log" || { cat "$scratch/log" && exit 1; }
same late
REMAT_RANK_DELAY=0.005 REMAT_RANK_OVERLAP=1 on_hosts beside --zero 2 >"$scratch/log" || { cat "$scratch/log" && exit 1; }
grep "in communication" "$scratch/log"
same beside

# The host is cut off once there is a state of step 4.
flags=("${flags[@]/#12/40}")
"$program" "${flags[@]}" --out "$scratch/one" >"$scratch/one.log"
REMAT_RANK_PATIENCE=4 REMAT_RANK_DELAY=0.01 on_hosts cut >"$scratch/log" 2>&1 &
run=$!
until [[ -d $scratch/cut/states/step-8 ]]; do
  kill -0 "$run" 2>/dev/null || { cat "$scratch/log" && exit 1; }
  sleep 0.1
done
ip -n "$a" link set veth_a down
start=$EPOCHREALTIME
if wait "$run"; then echo "FAILED: it went on without its other host" && exit 1; fi
seconds=$(awk "BEGIN { print $EPOCHREALTIME - $start }")
grep -E "waited .* s to|lost connection|ORTE|unreachable" "$scratch/log" | head -n 3
echo "cut: all of this host had ended after $seconds s"
awk "BEGIN { exit !($seconds < 10) }" || { echo "FAILED: that is too long" && exit 1; }
ip -n "$a" link set veth_a up
for left in {1..100}; do
  [[ -n $(ip netns pids "$b") ]] || break
  sleep 0.1
done
[[ -z $(ip netns pids "$b") ]] || { echo "FAILED: ranks of the other host are still there" && exit 1; }
on_hosts cut --resume >"$scratch/log" || { cat "$scratch/log" && exit 1; }
grep "goes on from" "$scratch/log"
same cut
