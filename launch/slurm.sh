#!/usr/bin/env bash
# Submits a training to SLURM. It saves before the time limit and goes on by itself.
#
#   bash launch/slurm.sh [options] -- --config=configs/NAME.py --workdir=DIR
#
#   --name=NAME        job name (kdiff_jax)
#   --nodes=N          hosts (1)
#   --gpus=G           GPUs per host (8); one process drives all of them
#   --cpus=C           CPU cores per host (16)
#   --time=H:MM:SS     time limit of one piece; the job requeues itself (24:00:00)
#   --grace=S          seconds before the limit at which it saves and stops (300)
#   --partition=P --account=A --constraint=C    as for sbatch
#   --env=DIR          virtual environment (.venv of this checkout)
#   --output=FILE      write the job's script there instead of submitting it
#   --dryrun           print the job's script and the command, and end
#
# At the limit, or when preempted, SLURM sends TERM; the training saves and ends with
# code 75, and only then the job asks for its own requeue. Any other code is final.
# Paths are relative to the folder that it is submitted from.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR
source "$here/arguments.sh"

name=kdiff_jax nodes=1 gpus=8 cpus=16 time=24:00:00 grace=300 output=""
# shellcheck disable=SC2034 # read by name, in job_script
partition="" account="" constraint="" env=$(dirname "$here")/.venv
parse "name= nodes= gpus= cpus= time= grace= output= partition= account= \
constraint= env=" "$@"
((${#words[@]} == 0)) || fail "${words[0]}: unexpected; see --help"
require_training
require_numbers nodes gpus cpus grace
[[ $time =~ ^([0-9]+-)?[0-9]+(:[0-9]+)*$ ]] ||
  fail "--time=$time: must be as for sbatch, such as 24:00:00 or 2-00:00:00"

job_script() {
  cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$gpus
#SBATCH --cpus-per-task=$cpus
#SBATCH --time=$time
#SBATCH --signal=TERM@$grace
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$name-%j.log
END
  local option
  for option in partition account constraint; do
    [[ -z ${!option} ]] || echo "#SBATCH --$option=${!option}"
  done
  cat <<END

source $(quoted "$env/bin/activate")
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.9
# One process that has saved must not end the others while they still save.
srun --kill-on-bad-exit=0 $(quoted python -u -m kdiff_jax.main "${training[@]}")
code=\$?
if [ \$code -eq 75 ]; then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit \$code
END
}

if [[ -n $output ]]; then
  [[ -n $dryrun ]] || exec >"$output"
  job_script
elif [[ -n $dryrun ]]; then
  echo "sbatch <<'END'"
  job_script
  echo "END"
else
  command -v sbatch >/dev/null || fail "sbatch: not found; --output=FILE writes the job"
  job_script | sbatch
fi
