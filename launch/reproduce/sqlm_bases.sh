#!/usr/bin/env bash
# Self-play from the three shipped bases, unguarded: late with three seeds,
# middle and early with one. About 7 minutes on two cores; goes on where it
# was cut. Writes runs/bases/ and draws results/sqlm_bases/.
set -euo pipefail
cd "$(dirname "$0")/../.."
jaxdistill=${JAXDISTILL:-.venv/bin/jaxdistill}
out=results/sqlm_bases
mkdir -p "$out"
for run in late:0 late:1 late:2 middle:0 early:0; do
  base=${run%:*} seed=${run#*:}
  "$jaxdistill" train --config configs/sqlm_small.py \
    --workdir "runs/bases/$base-$seed" \
    --config.model="small-$base" --config.seed="$seed" \
    --config.guard.every=0 --config.guard.act=False
  cp "runs/bases/$base-$seed/summary.json" "$out/$base-$seed.json"
done
"$jaxdistill" plot runs/bases/late-0 runs/bases/middle-0 runs/bases/early-0 \
  --out "$out/bases.png"
"$jaxdistill" plot runs/bases/late-0 runs/bases/late-1 runs/bases/late-2 \
  --out "$out/seeds.png"
