#!/usr/bin/env bash
# A jaxdistill command line as a SkyPilot managed job: on the cheapest machines
# that any of your clouds has, replaced when they are taken away.
#
#   launch/skypilot.sh --gpus H100:8 --nodes 2 --spot -- jaxdistill train --config C --workdir gs://B/run
#   launch/skypilot.sh --topology v5e:4x8 --spot -- jaxdistill train --config C --workdir gs://B/run --coordinator auto
#
# Calls sky jobs launch with launch/skypilot.yaml (pip install 'skypilot[gcp]',
# or another cloud). Then
#
#   sky jobs queue            how it stands, and how often it was recovered
#   sky jobs logs N           what it prints
#   sky jobs cancel -n N      ends it
#
# On several GPU nodes each gets --coordinator, --num_processes and
# --process_id after the command line: one process per node, with its GPUs.
#
# Options:
#
#   --gpus KIND:N       of a node, as SkyPilot calls them; or
#   --topology SLICE    GENERATION:SHAPE of a TPU, as jaxdistill plan takes it
#   --nodes N           with --gpus (1)
#   --spot              cheaper, and taken away at any moment
#   --infra WHERE       CLOUD, CLOUD/REGION or CLOUD/REGION/ZONE
#   --name NAME         of the job (jaxdistill)
#   --tries N           failures on the same machines that end it (3)
#   --dry-run           prints the command, and runs nothing
#   --help              prints this
dry_run=''
# shellcheck source=launch/command_line.sh
. "$(dirname "$0")/command_line.sh"
# shellcheck source=launch/slice.sh
. "$LAUNCH/slice.sh"

gpus='' topology='' nodes=1 spot='' infra='' name=jaxdistill tries=3
read_options 'gpus= topology= nodes= spot infra= name= tries=' "$@"
require_number nodes tries
[ -n "$gpus$topology" ] || refuse '--gpus or --topology is required'
[ -z "$gpus" ] || [ -z "$topology" ] || refuse '--gpus or --topology, not both'
extras=gpu,gcs arguments={}
if [ -n "$topology" ]; then
  [ "$nodes" = 1 ] || refuse '--nodes goes with --gpus; a slice has its hosts'
  read_slice "$topology"
  [ -n "$slice_runtime" ] ||
    refuse "$topology is not to be had as TPU VMs, only in GKE: launch/gke.sh"
  check_command "$slice_hosts" own
  gpus=tpu-$slice_type:1 extras=tpu,gcs
  # SkyPilot's own choice for v5e is the version of v5p.
  arguments="{runtime_version: $slice_runtime}"
else
  check_command 1 own
  [ "$nodes" = 1 ] || joins "${COMMAND[1]:-}" ||
    refuse "${COMMAND[1]:-jaxdistill} runs on one node, not on $nodes"
  for word in "${COMMAND[@]}"; do
    case $word in --coordinator*) refuse 'no --coordinator with --gpus: each node is told it' ;; esac
  done
fi

file=${TMPDIR:-/tmp}/jaxdistill-sky.yaml
task=$(fill "$LAUNCH/skypilot.yaml" NAME "$(text "$name")" NODES "$nodes" ACCELERATORS "$(text "$gpus")" \
  ARGUMENTS "$arguments" SPOT "$([ -n "$spot" ] && echo true || echo false)" \
  EXTRAS "$extras" TRIES "$tries" COMMAND "$(quote_command)")
if [ -n "$dry_run" ]; then
  printf "cat > %s <<'END'\n%s\nEND\n" "$(quote "$file")" "$task"
else
  printf '%s\n' "$task" > "$file"
fi
act cd "$(dirname "$LAUNCH")" # what is copied to the machines
act sky jobs launch "$file" --yes ${infra:+--infra "$infra"}
