#!/usr/bin/env bash
# A jaxdistill command line on all hosts of a Cloud TPU slice.
#
#   launch/tpu_vm.sh up --name N --zone Z --topology v5e:4x8 --spot -- jaxdistill train --config C --workdir gs://B/run --coordinator auto
#
# Verbs:
#
#   up       all that follows: creates the slice, installs, runs, and watches;
#            one that is preempted is created again, and the run goes on. Ends
#            with the exit code of the run
#   create   asks for the slice and returns: in the queue, or --direct
#   install  copies this tree to all hosts and installs it there
#   run      starts the command line after -- on all hosts and returns; it goes
#            on without this machine, and begins again where it may
#            (launch/babysit.sh)
#   logs     follows what one host prints (--worker)
#   status   of the slice, and of the run on each host
#   stop     SIGTERM to all: the run saves and ends
#   delete   the slice; --workdir stays
#
# Options:
#
#   --name NAME         of the slice
#   --zone ZONE         where; not every zone has every generation
#   --project PROJECT   (gcloud's own)
#   --topology SLICE    GENERATION:SHAPE, as jaxdistill plan takes it
#   --spot              cheaper, and taken away at any moment
#   --direct            create at once or fail, without the queue
#   --runtime VERSION   what the hosts boot (by generation)
#   --account EMAIL     whose rights the hosts have (the project's default)
#   --extras LIST       of jaxdistill, installed (tpu,gcs)
#   --tries N           failures on a host that end the run (3)
#   --worker I          whose log (0)
#   --then-delete       up: deletes the slice once the run has ended well
#   --dry-run           prints the commands, and runs none
#   --help              prints this
dry_run=''
# shellcheck source=launch/command_line.sh
. "$(dirname "$0")/command_line.sh"
# shellcheck source=launch/slice.sh
. "$LAUNCH/slice.sh"

verb=${1:-}
case $verb in
  -h | --help)
    print_help
    exit
    ;;
  '' | -*) refuse 'a verb comes first: up, create, install, run, logs, status, stop, delete' ;;
esac
shift
choose verb "$verb" up create install run logs status stop delete
name='' zone='' project='' topology='' spot='' direct='' runtime='' account=''
extras=tpu,gcs tries=3 worker=0 then_delete=''
read_options 'name= zone= project= topology= spot direct runtime= account= extras= tries= worker= then-delete' "$@"
require name zone
require_number tries
where=(--zone="$zone" ${project:+--project="$project"})
poll=60

case $verb in
  up | create)
    require topology
    read_slice "$topology"
    runtime=${runtime:-$slice_runtime}
    [ -n "$runtime" ] ||
      refuse "$topology is not to be had as TPU VMs, only in GKE: launch/gke.sh"
    ;;
esac
case $verb in
  up) check_command "$slice_hosts" own ;;
  run)
    check_command 1 own
    case " ${COMMAND[*]} " in
      *' --coordinator'* | *' doctor '*) ;;
      *) note 'note: on several hosts it takes --coordinator auto' ;;
    esac
    ;;
  *) [ "${#COMMAND[@]}" = 0 ] || refuse "$verb takes no command line; run and up do" ;;
esac

tpu() { gcloud compute tpus "$@" "${where[@]}"; }
if [ -n "$dry_run" ]; then
  tpu() { act gcloud compute tpus "$@" "${where[@]}"; }
fi

on_hosts() { # WORKERS SCRIPT
  tpu tpu-vm ssh "$name" --worker="$1" --command="$2"
}

create() {
  local more=(--accelerator-type="$slice_type")
  [ -z "$spot" ] || more+=(--spot)
  [ -z "$account" ] || more+=(--service-account="$account")
  if [ -n "$direct" ]; then
    tpu tpu-vm create "$name" --version="$runtime" "${more[@]}"
  else
    tpu queued-resources create "$name" --node-id="$name" --runtime-version="$runtime" "${more[@]}"
  fi
}

# Its own Python: that of the image is older than jaxdistill's oldest.
install() {
  local archive=${TMPDIR:-/tmp}/jaxdistill.tgz
  act tar -czf "$archive" -C "$(dirname "$LAUNCH")" --exclude=./.git \
    --exclude=./.venv --exclude=./runs --exclude=./results \
    --exclude=__pycache__ . &&
    tpu tpu-vm scp "$archive" "$name:jaxdistill.tgz" --worker=all &&
    on_hosts all "set -e; mkdir -p ~/jaxdistill; \
tar -xzf ~/jaxdistill.tgz -C ~/jaxdistill; cd ~/jaxdistill; \
curl -LsSf https://astral.sh/uv/install.sh | sh; \
export PATH=~/.local/bin:\$PATH; \
uv venv --quiet --allow-existing --python 3.12 .venv; \
uv pip install --quiet --python .venv/bin/python '.[$extras]'; \
.venv/bin/jaxdistill --version"
}

# For a shell of the hosts, which expands it. By its name, too: a host that was
# booted again has other processes.
# shellcheck disable=SC2016
running='grep -qs babysit "/proc/$(cat babysit/pid 2> /dev/null)/cmdline"'

# Starts the run on all hosts; where one runs already, does WHAT instead.
start() {
  on_hosts all "cd ~/jaxdistill; if $running; then $1; else \
mkdir -p babysit; rm -f babysit/stopped; \
PATH=\$PWD/.venv/bin:\$PATH nohup setsid \
launch/babysit.sh --tries=$tries --record=babysit -- \
$(quote "${COMMAND[@]}") >> babysit/log 2>&1 < /dev/null & fi"
}

# Sets `found` to what a command prints; fails as it does.
ask() {
  if [ -n "$dry_run" ]; then
    "$@"
    found=''
  else
    found=$("$@")
  fi
}

# Sets `found` to ready, none, lost (to be deleted first) or waiting.
ask_slice() {
  if [ -n "$direct" ]; then
    ask tpu tpu-vm list --filter="name~/$name\$" --format='value(state)' || return
  else
    ask tpu queued-resources list --filter="name~/$name\$" --format='value(state.state)' || return
  fi
  case $found in
    '') found=none ;;
    ACTIVE | READY) found=ready ;;
    SUSPENDED | FAILED | PREEMPTED | TERMINATED) found=lost ;;
    *) found=waiting ;;
  esac
}

# Sets `found` to running, stopped (by a person), gone, or how it ended.
ask_run() {
  ask on_hosts 0 "cd ~/jaxdistill && if $running; then echo running; \
elif [ -e babysit/stopped ]; then echo stopped; \
else cat babysit/ended 2> /dev/null || echo gone; fi"
}

delete() {
  if [ -n "$direct" ]; then
    tpu tpu-vm delete "$name" --quiet
  else
    tpu queued-resources delete "$name" --force --quiet
  fi
}

# Counts what went wrong in a row; ends with 1 at the last try.
failed() { # WHAT
  failures=$((failures + 1))
  note "$1 failed, $failures of $tries tries"
  ((failures < tries)) || exit 1
}

up() {
  local installed='' failures=0 answered=''
  while :; do
    if ! ask_slice; then
      # Waiting mends no project that is not set, and nobody who is not logged in.
      [ -n "$answered" ] || failed 'the first call of gcloud'
      note "no answer from gcloud; again in $poll s"
    elif answered=1 && [ "$found" = none ]; then
      installed=''
      # Without the queue nobody waits for free TPUs but this.
      create || [ -n "$direct" ] || failed 'asking for the slice'
    elif [ "$found" = lost ]; then
      note "$name was lost; it is created again"
      failures=0
      delete || note "it could not be deleted; again in $poll s"
    elif [ "$found" = ready ] && [ -z "$installed" ]; then
      if install && start true; then
        installed=1 failures=0
      else
        failed 'installing or starting'
      fi
    elif [ "$found" = ready ] && ask_run; then
      case $found in
        running) ;;
        stopped) finish "$GOES_ON" ;;
        gone | "$GOES_ON") start true || true ;;
        *) finish "$found" ;;
      esac
    fi
    sleep "$poll"
  done
}

finish() { # CODE
  if [ "$1" = 0 ] && [ -n "$then_delete" ]; then
    delete
  else
    note "the run ended with $1; the slice is still there, and costs, until:"
    quote "$LAUNCH/tpu_vm.sh" delete --name "$name" "${where[@]}" \
      ${direct:+--direct} >&2
    echo >&2
  fi
  exit "$1"
}

case $verb in
  up)
    if [ -n "$dry_run" ]; then # one round of it
      ask_slice
      create
      install
      start true
      ask_run
      [ -z "$then_delete" ] || delete
    else
      up
    fi
    ;;
  create) create ;;
  install) install ;;
  run) start 'echo "one runs here already; stop it first" >&2; exit 2' ;;
  logs) on_hosts "$worker" 'tail -n 200 -F ~/jaxdistill/babysit/log' ;;
  status)
    tpu tpu-vm list --filter="name~/$name\$"
    [ -n "$direct" ] || tpu queued-resources list --filter="name~/$name\$"
    on_hosts all "cd ~/jaxdistill && if $running; then echo running; \
else echo \"ended: \$(cat babysit/ended 2> /dev/null || echo never begun)\"; fi; \
tail -n 3 babysit/log"
    ;;
  stop) on_hosts all "touch ~/jaxdistill/babysit/stopped; kill -TERM \"\$(cat ~/jaxdistill/babysit/pid)\"" ;;
  delete) delete ;;
esac
