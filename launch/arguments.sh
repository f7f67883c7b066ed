# shellcheck shell=bash
# Reads the arguments of the scripts beside it. Sourced by them, not run.

fail() {
  echo "$*" >&2
  exit 2
}

# parse "NAMES" ARGUMENTS...
#
# NAMES lists the options: `zone=` takes a value, `spot` is a switch. An option
# --zone=Z sets the variable zone (dashes become underscores), a switch sets it to 1.
# Words go to the array `words`; what follows `--` goes to the array `training`.
# --help prints the comment at the head of the script; --dryrun is always known.
parse() {
  local known=" $1 dryrun " option
  shift
  dryrun="" words=() training=()
  while (($#)); do
    option=${1%%=*}
    option=${option#--}
    case $1 in
      --)
        shift
        training=("$@")
        break
        ;;
      --help | -h)
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
      --*=*)
        [[ $known == *" $option= "* ]] || fail "$1: no such option; see --help"
        printf -v "${option//-/_}" %s "${1#*=}"
        ;;
      --*)
        [[ $known != *" $option= "* ]] || fail "$1: needs a value: $1=..."
        [[ $known == *" $option "* ]] || fail "$1: no such option; see --help"
        printf -v "${option//-/_}" 1
        ;;
      *) words+=("$1") ;;
    esac
    shift
  done
}

# Ends with a message unless each of the named options is a whole number of at least 1.
require_numbers() {
  local name
  for name in "$@"; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] ||
      fail "--${name//_/-}=${!name}: must be a whole number, at least 1"
  done
}

# Ends with a message unless a training command follows `--`.
require_training() {
  [[ " ${training[*]:-} " == *" --config="* ]] ||
    fail "no --config after --: end with -- --config=configs/NAME.py --workdir=DIR"
}

# The arguments as one line that a shell reads back as the same arguments.
quoted() {
  local word line=""
  for word in "$@"; do
    # %q would turn a plain = or , into an escape that nobody needs to read.
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=${line:+ }$word
  done
  printf '%s\n' "$line"
}

# Runs a command; with --dryrun only prints it.
step() {
  if [[ -n $dryrun ]]; then
    quoted "$@"
  else
    "$@"
  fi
}
