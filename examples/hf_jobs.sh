#!/usr/bin/env bash
# Train on a GPU of Hugging Face Jobs:
#   CLONE_URL=... ADAPTER=YOU/price-adapter BACKUP=hf://YOU/price-checkpoints examples/hf_jobs.sh
# The job's disk goes with it. Checkpoints are kept on the Hub: the same command again goes on from
# the newest one; the adapter, its card and its scores are published at the end.
set -euo pipefail
: "${CLONE_URL:?where the job clones the project from}" "${ADAPTER:?OWNER/NAME on the Hub}"

read -r -d '' JOB <<'JOB' || true
set -euo pipefail
git clone "$CLONE_URL" pricer && cd pricer
python3 -m venv .venv && . .venv/bin/activate
pip install -q -c constraints.txt -e '.[wandb]'
pricer preset "$PRESET" --yes
dvc exp run -S train.backup="$BACKUP"
pricer publish --adapter "$ADAPTER"
JOB

hf jobs run --flavor "${FLAVOR:-a100-large}" --timeout "${TIMEOUT:-30h}" --detach \
  --secrets HF_TOKEN \
  --env CLONE_URL="$CLONE_URL" --env ADAPTER="$ADAPTER" \
  --env PRESET="${PRESET:-full}" --env BACKUP="${BACKUP:-null}" \
  "${IMAGE:-python:3.12-bookworm}" bash -c "$JOB"
