#!/usr/bin/env bash
# Which part of self-play does the work: two comparisons (the late and the
# middle small base), a run of 300 steps, and pass@k. About two hours on two
# cores; goes on where it was cut. Writes $RUNS and draws results/sqlm_small/.
set -euo pipefail
cd "$(dirname "$0")/../.."
jaxdistill=${JAXDISTILL:-.venv/bin/jaxdistill}
RUNS=${RUNS:-runs/sqlm_small}
out=results/sqlm_small
mkdir -p "$out/pass"

for base in late middle; do
  "$jaxdistill" compare --config "configs/compare_$base.py" --workdir "$RUNS/$base"
  for file in table.md summary.json; do
    cp "$RUNS/$base/$file" "$out/${base}_$file"
  done
  "$jaxdistill" plot "$out/${base}_summary.json" --out "$out/$base.png"
done

"$jaxdistill" train --config configs/sqlm_small_long.py \
  --workdir "$RUNS/long" --config.guard.every=0 --config.guard.act=False
mkdir -p "$out/long"
cp "$RUNS/long/metrics.jsonl" "$out/long/metrics.jsonl"
cp "$RUNS/long/summary.json" "$out/long_summary.json"
"$jaxdistill" plot "$out/long" "$out/long_fast" --out "$out/long.png"

measure() {  # NAME SPLIT, then whose
  [ -e "$out/pass/$1.json" ] || "$jaxdistill" eval "${@:3}" --split "$2" \
    --problems 128 --samples 64 --pass_k 1,2,4,8,16,32,64 \
    --out "$out/pass/$1.json"
}
for base in late middle; do
  for split in test ood; do
    measure "${base}_base-$split" "$split" --model "small-$base"
    for seed in 0 1; do
      measure "${base}_trained-$split$seed" "$split" \
        --workdir "$RUNS/$base/sqlm/$seed"
    done
  done
  "$jaxdistill" plot "$out/pass/$base"_*-test*.json \
    "$out/pass/$base"_*-ood*.json --out "$out/${base}_pass_at.png"
done

python3 - "$out" > "$out/about.txt" <<'END'
import datetime, glob, json, os, subprocess, sys

seconds, about = 0, {}
for path in sorted(glob.glob(f'{sys.argv[1]}/*_summary.json')):
  found = json.load(open(path))
  about = {k: found[k] for k in ('versions', 'device')}
  arms = found.get('arms', {'': found | {'seeds': [0]}}).values()
  seconds += sum(arm['wall_s'] * len(arm['seeds']) for arm in arms)
commit = subprocess.check_output(['git', 'rev-parse', 'HEAD'], text=True)
print('command   launch/reproduce/sqlm_small.sh')
print('commit   ', commit.strip())
print('date     ', datetime.date.today())
print('machine  ', os.cpu_count(), 'cores,', about['device'])
print('versions ', ', '.join(f'{k} {v}' for k, v in about['versions'].items()))
print('training ', round(seconds / 60), 'minutes, all runs one after another')
END
