#!/usr/bin/env bash
# A jaxdistill command line on the GPUs of several nodes, under Slurm.
#
#   launch/slurm.sh --nodes 2 --gpus 8 --time 24:00:00 -- jaxdistill train --config C --workdir SHARED/run --coordinator auto
#
# Submits one job with one process per GPU, because that is what JAX takes from
# Slurm: with --coordinator auto, process I of a node uses GPU I and no other.
# All processes see all GPUs of their node for that; --gpus-per-task would hide
# them.
#
# Two minutes before its time is over the run saves (SIGTERM) and the job is
# queued again; so it is when it is preempted or a node fails. A run that fails
# is begun again where it is (launch/babysit.sh); one that was asked for wrongly
# is not. Everything it prints is in --log, one file for all tries.
#
# Options:
#
#   --nodes N           how many (1)
#   --gpus N            of a node (1)
#   --time TIME         before it is queued again (24:00:00)
#   --cpus N            cores of a process (8)
#   --name NAME         of the job (jaxdistill)
#   --partition NAME    (the cluster's own)
#   --account NAME      (your own)
#   --log FILE          (NAME-%j.log; %j is the number of the job)
#   --tries N           failures that end it, each time it runs (3)
#   --dry-run           prints the command, and submits nothing
#   --help              prints this
#
# Submit from the environment of jaxdistill; it and this folder must be on a disk
# that the nodes see.
dry_run=''
# shellcheck source=launch/command_line.sh
. "$(dirname "$0")/command_line.sh"

nodes=1 gpus=1 time=24:00:00 cpus=8 name=jaxdistill partition='' account='' log='' tries=3
read_options 'nodes= gpus= time= cpus= name= partition= account= log= tries=' "$@"
require_number nodes gpus cpus tries
check_command "$((nodes * gpus))" shared

# Not -K: the first process that has saved must not end one that still does.
# After two minutes the others are ended all the same.
job="$(quote "$LAUNCH/babysit.sh" --hand-on --wait=10 --tries="$tries") -- \
srun --kill-on-bad-exit=0 --wait=120 --cpus-per-task=$cpus \
$(quote "${COMMAND[@]}")
code=\$?
[ \$code != $GOES_ON ] || scontrol requeue \$SLURM_JOB_ID
exit \$code"

act sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" \
  --gpus-per-node="$gpus" --cpus-per-task="$cpus" --time="$time" \
  --requeue --signal=TERM@120 --open-mode=append --output="${log:-$name-%j.log}" \
  ${partition:+--partition="$partition"} ${account:+--account="$account"} \
  --wrap="$job"
