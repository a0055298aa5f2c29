#!/usr/bin/env bash
# A real model teaches itself addition, with controls: five runs on two cores.
# Goes on where it was cut; draws results/sqlm_qwen05/.
#   launch/reproduce/sqlm_qwen05.sh DIRECTORY [WORKDIR]
# DIRECTORY is Qwen2.5-Coder-0.5B-Instruct in Hugging Face's layout; WORKDIR
# (runs/sqlm_qwen05) is where the runs live.
set -euo pipefail
if [ ! -f "${1:-}/config.json" ]; then
  echo "sqlm_qwen05.sh: no model in '${1:-}': there is no config.json" >&2
  exit 2
fi
model=$(cd "$1" && pwd)
runs=$(realpath -m "${2:-$(dirname "$0")/../../runs/sqlm_qwen05}")
cd "$(dirname "$0")/../.."
jaxdistill=${JAXDISTILL:-.venv/bin/jaxdistill}
config=configs/compare_qwen05.py
out=results/sqlm_qwen05

"$jaxdistill" compare --config "$config" --workdir "$runs" \
  "--config.model=$model"
mkdir -p "$out"
cp "$runs/table.md" "$runs/compare.png" "$runs/summary.json" "$out/"

python3 - "$out" "$config" > "$out/about.txt" <<'END'
import datetime, json, os, subprocess, sys

out, config = sys.argv[1:]
found = json.load(open(f'{out}/summary.json'))
arms = found['arms'].values()
seconds = sum(arm['wall_s'] * len(arm['seeds']) for arm in arms)
commit = subprocess.check_output(['git', 'rev-parse', 'HEAD'], text=True)
print('command  ', f'jaxdistill compare --config {config}')
print('commit   ', commit.strip())
print('date     ', datetime.date.today())
print('machine  ', os.cpu_count(), 'cores,', found['device'])
print('versions ', ', '.join(f'{k} {v}' for k, v in found['versions'].items()))
print('training ', round(seconds / 60), 'minutes, all runs one after another')
END
