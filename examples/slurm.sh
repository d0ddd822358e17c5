#!/usr/bin/env bash
# Train on a Slurm cluster, then price many products in an array of jobs:
#   train=$(sbatch --parsable examples/slurm.sh train)
#   sbatch --dependency=afterok:"$train" --array=1-16 examples/slurm.sh predict IN OUT
# The project and OUT lie on a disk that all machines share. A job that was killed is put back into
# the queue and goes on: training from its newest checkpoint, prediction with the missing parts.
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
      --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
    ;;
  *)
    echo "usage: slurm.sh train | predict IN OUT" >&2
    exit 1
    ;;
esac
