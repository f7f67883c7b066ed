#!/usr/bin/env bash
# Trains on all GPUs of this host, or of several hosts.
#
#   bash launch/multi_gpu.sh [options] -- --config=configs/NAME.py --workdir=DIR
#
# By default one process drives all GPUs of the host. On several hosts run the same
# command on each, with its own --host-id; the workdir must be a folder they share.
#
#   --num-hosts=N            hosts in all (1)
#   --host-id=I              number of this host, from 0 (0)
#   --coordinator=HOST:PORT  address of host 0, reachable from all hosts
#   --per-gpu                one process per GPU instead of one per host
#   --num-gpus=G             GPUs of this host, for --per-gpu (all that are visible)
#   --dryrun                 print the commands and end
#
# CUDA_VISIBLE_DEVICES chooses GPUs. XLA_FLAGS and XLA_PYTHON_CLIENT_MEM_FRACTION that
# are set already win over the ones set here.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR
source "$here/arguments.sh"

num_hosts=1 host_id=0 coordinator="" per_gpu="" num_gpus=""
parse "num-hosts= host-id= coordinator= per-gpu num-gpus=" "$@"
((${#words[@]} == 0)) || fail "${words[0]}: unexpected; see --help"
require_training
require_numbers num_hosts
[[ $host_id =~ ^[0-9]+$ && $host_id -lt $num_hosts ]] ||
  fail "--host-id=$host_id: must be in 0..$((num_hosts - 1)), see --num-hosts"
((num_hosts == 1)) || [[ $coordinator == *:* ]] ||
  fail "--num-hosts=$num_hosts: needs --coordinator=HOST:PORT, the same on every host"

gpus=()
if [[ -n $per_gpu ]]; then
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
  elif [[ -n $num_gpus ]]; then
    require_numbers num_gpus
    for ((i = 0; i < num_gpus; i++)); do gpus+=("$i"); done
  else
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null)
  fi
  ((${#gpus[@]})) || fail "--per-gpu: nvidia-smi shows no GPU; say --num-gpus=G"
fi

# Overlaps the gradients' all-reduce with the backward pass.
settings=(
  "XLA_FLAGS=${XLA_FLAGS:---xla_gpu_enable_latency_hiding_scheduler=true}"
  "XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}"
)
command=(python -u -m kdiff_jax.main "${training[@]}")

if [[ -z $per_gpu ]]; then
  if ((num_hosts > 1)); then
    settings+=("KDIFF_COORDINATOR=$coordinator" "KDIFF_NUM_PROCESSES=$num_hosts"
      "KDIFF_PROCESS_ID=$host_id")
  fi
  [[ -n $dryrun ]] || exec env "${settings[@]}" "${command[@]}"
  step env "${settings[@]}" "${command[@]}"
  exit
fi

settings+=("KDIFF_COORDINATOR=${coordinator:-127.0.0.1:12321}"
  "KDIFF_NUM_PROCESSES=$((num_hosts * ${#gpus[@]}))")
children=()
for i in "${!gpus[@]}"; do
  own=("CUDA_VISIBLE_DEVICES=${gpus[i]}"
    "KDIFF_PROCESS_ID=$((host_id * ${#gpus[@]} + i))")
  if [[ -n $dryrun ]]; then
    step env "${settings[@]}" "${own[@]}" "${command[@]}"
  else
    env "${settings[@]}" "${own[@]}" "${command[@]}" &
    children+=($!)
  fi
done
[[ -z $dryrun ]] || exit 0

# A signal reaches every process, which saves and ends with code 75.
stop() { kill -TERM "${children[@]}" 2>/dev/null || true; }
trap stop TERM INT
worst=0
while ((${#children[@]})); do
  for i in "${!children[@]}"; do
    if kill -0 "${children[i]}" 2>/dev/null; then continue; fi
    code=0
    wait "${children[i]}" || code=$?
    unset "children[i]"
    if ((code != 0 && worst == 0)); then
      worst=$code
      # Without it the others would wait for it in a collective, and never end.
      ((code == 75)) || stop
    fi
  done
  sleep 1
done
exit "$worst"
