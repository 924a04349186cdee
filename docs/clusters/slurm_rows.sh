#!/bin/bash
#SBATCH --array=0-4 --gres=gpu:8 --time=2-00:00:00 --requeue --open-mode=append
# One row of a table per machine. Prepare the data first (--mode=prepare); the same command without --row prints the table at the end.
python main.py --mode=sweep --config=configs/tables/zigzag_components.py:voc2012 --seeds=3 --workdir=/shared/components --row="$SLURM_ARRAY_TASK_ID"
