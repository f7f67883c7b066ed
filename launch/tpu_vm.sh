#!/usr/bin/env bash
# Trains on a Cloud TPU VM, one host or a pod slice.
#
#   bash launch/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [options]
#        [-- --config=configs/NAME.py --workdir=DIR]
#
#   create    make the TPU
#   install   copy this checkout's HEAD to all workers and install it there
#   run       run the training on all workers; it resumes what the workdir holds
#   train     all of it: create, install and run, again after every preemption,
#             until the training is done or ends with a mistake (codes 1 to 5, 7)
#   delete    delete the TPU
#
#   --type=TYPE        accelerator type (v5litepod-8)
#   --version=VERSION  runtime version (v2-alpha-tpuv5-lite)
#   --project=PROJECT  as for gcloud
#   --spot             cheaper, may be preempted
#   --queued           ask by a queued resource and wait for it
#   --retries=N        how often train starts again (100)
#   --dryrun           print the commands and end
#
# The workdir must outlive the machine and be seen by all workers: a mounted bucket or
# network disk. A pod's processes find each other by themselves.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source-path=SCRIPTDIR
source "$here/arguments.sh"

name="" zone="" type=v5litepod-8 version=v2-alpha-tpuv5-lite project="" spot="" queued=""
retries=100
parse "name= zone= type= version= project= spot queued retries=" "$@"
task=${words[0]:-}
((${#words[@]} < 2)) || fail "${words[1]}: one COMMAND at a time; see --help"
case $task in
  create | install | delete) ;;
  run | train) require_training ;;
  *) fail "${task:-no COMMAND}: must be create, install, run, train or delete" ;;
esac
[[ -n $name && -n $zone ]] || fail "--name=$name --zone=$zone: both are needed"
require_numbers retries
[[ -n $dryrun ]] || command -v gcloud >/dev/null ||
  fail "gcloud: not found; install the Google Cloud CLI, or look with --dryrun"

where=("--zone=$zone" ${project:+"--project=$project"})
tpu=(gcloud compute tpus tpu-vm)
queue=(gcloud compute tpus queued-resources)

state() { # of the TPU: READY, PREEMPTED, ...; nothing where there is none
  [[ -z $dryrun ]] || return 0
  "${tpu[@]}" describe "$name" "${where[@]}" --format='value(state)' 2>/dev/null || true
}

on_all_workers() {
  step "${tpu[@]}" ssh "$name" "${where[@]}" --worker=all --command="$1"
}

create() {
  local make=("--accelerator-type=$type" ${spot:+--spot})
  if [[ -z $queued ]]; then
    step "${tpu[@]}" create "$name" "${where[@]}" "${make[@]}" "--version=$version"
    return
  fi
  step "${queue[@]}" create "$name" "${where[@]}" "--node-id=$name" "${make[@]}" \
    "--runtime-version=$version" || return
  until [[ -n $dryrun || $(state) == READY ]]; do
    case $("${queue[@]}" describe "$name" "${where[@]}" --format='value(state.state)') in
      FAILED | SUSPENDED) return 1 ;;
    esac
    sleep 30
  done
}

delete() {
  if [[ -n $queued ]]; then
    step "${queue[@]}" delete "$name" "${where[@]}" --force --quiet
  else
    step "${tpu[@]}" delete "$name" "${where[@]}" --quiet
  fi
}

install() {
  local archive=kdiff_jax.tar.gz
  if [[ -z $dryrun ]]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    archive=$scratch/$archive
  fi
  step git -C "$root" archive --prefix=kdiff_jax/ "--output=$archive" HEAD || return
  step "${tpu[@]}" scp "$archive" "$name:" "${where[@]}" --worker=all || return
  # The images carry an older Python; uv brings a newer one without touching theirs.
  on_all_workers "tar -xzf kdiff_jax.tar.gz && cd kdiff_jax &&\
 python3 -m pip install --user --quiet uv &&\
 { test -d .venv || python3 -m uv venv --quiet --seed --python 3.12 .venv; } &&\
 KDIFF_EXTRA=tpu bash launch/setup_env.sh"
}

run() {
  # A lost connection may leave the last training running: it saves and ends first.
  on_all_workers "cd kdiff_jax && source .venv/bin/activate && touch run.pid || exit;\
 old='-F run.pid -f kdiff_jax.main'; pkill \$old 2>/dev/null;\
 while pgrep \$old >/dev/null 2>&1; do sleep 1; done; echo \$\$ > run.pid;\
 exec $(quoted python -u -m kdiff_jax.main "${training[@]}" --distributed=on)"
}

train() {
  local attempt code installed=""
  for ((attempt = 0; attempt <= retries; attempt++)); do
    if ((attempt > 0)); then
      echo "starting again ($attempt of $retries)"
      sleep 30
    fi
    if [[ $(state) != READY ]]; then
      installed=""
      # What a preemption leaves behind is in the way of its successor.
      if ((attempt > 0)) || [[ -n $(state) ]]; then delete || true; fi
      create || continue
    fi
    [[ -n $installed ]] || install || continue
    installed=1
    code=0
    run || code=$?
    if [[ -n $dryrun ]]; then
      echo "# after a preemption: delete, create, install and run again"
      return
    fi
    echo "ended with code $code"
    case $code in
      0) return ;;
      1 | 2 | 3 | 4 | 5 | 7) if [[ $(state) == READY ]]; then return "$code"; fi ;;
    esac
  done
  echo "--retries=$retries: all used; the same command goes on from the workdir" >&2
  return 75
}

"$task"
