#!/usr/bin/env bash
# Draws the table of claims again, on the small world: trains the arms of every
# comparison below, and writes a folder of results/ for each, results/claims.md
# and the README's table. Days on two cores, all of it; what is finished is only
# read, so it goes on where it was cut.
#
#   launch/reproduce/claims.sh                     # all
#   CLAIMS="score serl" launch/reproduce/claims.sh # these
#   SEEDS=0,1 launch/reproduce/claims.sh           # a share of it
#
# (C9 and C13 have scripts of their own, sqlm_small.sh and factorial.py.) What a
# share has come to is in $RUNS/CLAIM/table.md; from two seeds on
#   .venv/bin/python launch/reproduce/claims.py CLAIM "$RUNS/CLAIM" FOLDER
# gives its verdicts.
#
# Several may share the work, each with its own CLAIMS or SEEDS and the folder
# $RUNS in common: those with SEEDS only train; one without them, started when
# they are done, collects.
set -euo pipefail
if [ $# -gt 0 ]; then
  echo 'claims.sh takes no arguments; it is told by variables:' >&2
  sed -n 's/^#   /  /p' "$0" >&2
  exit 2
fi
cd "$(dirname "$0")/../.."
jaxdistill=${JAXDISTILL:-.venv/bin/jaxdistill}
python=${PYTHON:-.venv/bin/python}
RUNS=${RUNS:-runs/claims}

all="contexts pool cross_encoder calibration verifiers score serl temporal seal
sequential_edits reflection cot anchors anchors_gentle"

config() {  # of a claim
  case $1 in
    anchors) echo configs/anchors_small.py ;;
    anchors_gentle) echo configs/anchors_small.py:1e-4 ;;
    temporal) echo configs/compare_temporal.py:vote ;;
    seal) echo "configs/compare_seal.py:$RUNS/editor_model" ;;
    *) echo "configs/compare_$1.py" ;;
  esac
}

editor() {  # a model that errs less in writing edits; made by one, others wait
  mkdir -p "$RUNS"
  (
    flock 9
    [ ! -e "$RUNS/editor_model" ] || exit 0
    "$jaxdistill" train --config configs/edits_small.py --workdir "$RUNS/editor"
    rm -rf "$RUNS/editor_model.part"
    "$jaxdistill" export --workdir "$RUNS/editor" --to "$RUNS/editor_model.part"
    mv "$RUNS/editor_model.part" "$RUNS/editor_model"
  ) 9> "$RUNS/editor.lock"
}

for claim in ${CLAIMS:-}; do
  case " ${all//$'\n'/ } " in
    *" $claim "*) ;;
    *) echo "claims.sh: there is no claim '$claim'; there are" $all >&2; exit 2 ;;
  esac
done
for claim in ${CLAIMS:-$all}; do
  [ "$claim" != seal ] || editor
  "$jaxdistill" compare --config "$(config "$claim")" \
    --workdir "$RUNS/$claim" ${SEEDS:+--seeds "$SEEDS"}
  if [ -z "${SEEDS:-}" ]; then
    "$python" launch/reproduce/claims.py "$claim" "$RUNS/$claim" \
      "results/$claim"
  fi
done
[ -n "${SEEDS:-}" ] || "$python" launch/reproduce/claims_table.py
