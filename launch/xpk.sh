#!/usr/bin/env bash
# A jaxdistill command line on TPU slices of a cluster that xpk has made.
#
#   launch/xpk.sh --name N --cluster K --image I --topology v5e:4x8 -- jaxdistill train --config C --workdir gs://B/run --coordinator auto
#
# Calls xpk workload create (xpk 1.16 or like it: pip install xpk). Then
#
#   xpk workload list --cluster K            how it stands
#   xpk workload delete --workload N --cluster K
#
# xpk has one limit for all restarts, so a preemption counts as a failure does:
# hence so many. Bad input (2) is never tried again.
#
# Options:
#
#   --name NAME         of the workload
#   --cluster NAME      as it was given to xpk cluster create
#   --image IMAGE       of launch/docker/tpu.Dockerfile, in a registry
#   --topology SLICE    GENERATION:SHAPE, as jaxdistill plan takes it
#   --slices N          how many of these (1)
#   --project PROJECT   (gcloud's own)
#   --zone ZONE         (gcloud's own)
#   --spot              of a cluster that makes its nodes when they are needed;
#                       else the cluster is spot or is not
#   --restarts N        preemptions and failures together (50)
#   --dry-run           prints the command, and runs nothing
#   --help              prints this
dry_run=''
# shellcheck source=launch/command_line.sh
. "$(dirname "$0")/command_line.sh"
# shellcheck source=launch/slice.sh
. "$LAUNCH/slice.sh"

name='' cluster='' image='' topology='' slices=1 project='' zone='' spot='' restarts=50
read_options 'name= cluster= image= topology= slices= project= zone= spot restarts=' "$@"
require name cluster image topology
read_slice "$topology"
require_number slices restarts
check_command "$((slices * ((slice_chips + 3) / 4)))" own # of nodes with four
command=$(quote_command)

# exec: xpk hands SIGTERM to the shell that it begins, not to its children. Of
# the codes from 127 on it begins again anyway.
act xpk workload create --workload "$name" --cluster "$cluster" \
  --tpu-type "$slice_type" --num-slices "$slices" --docker-image "$image" \
  --max-restarts "$restarts" --restart-on-exit-codes "1,$GOES_ON" \
  --termination-grace-period-seconds 300 \
  ${project:+--project "$project"} ${zone:+--zone "$zone"} ${spot:+--spot} \
  --command "exec $command"
