#!/usr/bin/env bash
# A jaxdistill command line on a TPU slice, or on several, in GKE.
#
#   launch/gke.sh --name N --image I --topology v5e:4x8 -- jaxdistill train --config C --workdir gs://B/run --coordinator auto
#
# Fills in launch/gke_jobset.yaml and hands it to kubectl, in whose current
# cluster JobSet (0.10 or newer) and nodes of that slice must be. Then
#
#   kubectl get jobset N          how it stands, and its restarts
#   kubectl logs --follow --selector jobset.sigs.k8s.io/jobset-name=N,batch.kubernetes.io/job-completion-index=0
#                                 what the first host prints
#   kubectl delete jobset N       ends it; it saves first
#
# Options:
#
#   --name NAME         of the JobSet; one of this name must be deleted first
#   --image IMAGE       of launch/docker/tpu.Dockerfile, in a registry
#   --topology SLICE    GENERATION:SHAPE, as jaxdistill plan takes it
#   --slices N          how many of these (1)
#   --chips N           of a node, by its machine type: ct5lp-hightpu-4t has 4
#                       (4; of a slice with fewer, all)
#   --spot              on spot nodes
#   --account NAME      the Kubernetes service account that may use the bucket
#                       (default)
#   --restarts N        after failures; preemptions are not counted (3)
#   --unprivileged      for clusters that refuse privileged containers
#   --dry-run           prints the command and the manifest, and runs nothing
#   --help              prints this
dry_run=''
# shellcheck source=launch/command_line.sh
. "$(dirname "$0")/command_line.sh"
# shellcheck source=launch/slice.sh
. "$LAUNCH/slice.sh"

name='' image='' topology='' slices=1 chips='' spot='' account=default restarts=3 unprivileged=''
read_options 'name= image= topology= slices= chips= spot account= restarts= unprivileged' "$@"
require name image topology
read_slice "$topology"
[ -n "$chips" ] || chips=$((slice_chips < 4 ? slice_chips : 4))
require_number slices chips restarts
((slice_chips % chips == 0)) || refuse "a slice of $slice_chips chips is not made of nodes of $chips"
hosts=$((slice_chips / chips))
check_command "$((hosts * slices))" own
case $name in *[!a-z0-9-]* | -* | *-) refuse "--name may have a-z, 0-9 and -, not '$name'" ;; esac

command=''
for word in "${COMMAND[@]}"; do
  # Kubernetes would read $(NAME) as a variable; $$ is a $.
  command="$command${command:+, }$(text "${word//\$/\$\$}")"
done
nodes="cloud.google.com/gke-tpu-accelerator: $slice_label, cloud.google.com/gke-tpu-topology: $slice_shape"
[ -z "$spot" ] || nodes="$nodes, cloud.google.com/gke-spot: \"true\""
privileged=true
[ -z "$unprivileged" ] || privileged=false

manifest=$(fill "$LAUNCH/gke_jobset.yaml" NAME "$name" RESTARTS "$restarts" \
  SLICES "$slices" HOSTS "$hosts" CHIPS "$chips" ACCOUNT "$(text "$account")" \
  NODES "{$nodes}" IMAGE "$(text "$image")" COMMAND "[$command]" PRIVILEGED "$privileged")
if [ -n "$dry_run" ]; then
  echo "kubectl apply -f - <<'END'"
  printf '%s\nEND\n' "$manifest"
else
  printf '%s\n' "$manifest" | kubectl apply -f -
fi
