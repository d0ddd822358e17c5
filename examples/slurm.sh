#!/usr/bin/env bash
# Train on a Slurm cluster, then price many products in an array of jobs:
#   train=$(sbatch --parsable examples/slurm.sh train)
#   sbatch --dependency=afterok:"$train" --array=1-16 examples/slurm.sh predict IN OUT 16
# The project and OUT lie on a disk that all machines share. A job whose machine fails or is taken
# away is put back into the queue; one that ran out of time, submit again (`--array=7` for one of
# 16). Either goes on: training from its newest checkpoint, prediction with the missing parts.
#SBATCH --job-name=pricer
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
source .venv/bin/activate

case "${1:-}" in
  train)
    dvc repro
    dvc push
    ;;
  predict)
    pricer predict --file "$2" --output "$3" --resume \
      --shard "$SLURM_ARRAY_TASK_ID/${4:?how many shards there are in all}"
    ;;
  *)
    echo "usage: slurm.sh train | predict IN OUT SHARDS" >&2
    exit 1
    ;;
esac
