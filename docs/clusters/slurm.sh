#!/bin/bash
#SBATCH --nodes=4 --ntasks-per-node=1 --gres=gpu:8 --cpus-per-task=32 --time=1-00:00:00
#SBATCH --requeue --open-mode=append --signal=B:USR1@180
# One run on four machines: one process per machine, which uses all of its GPUs. Submit it with: sbatch slurm.sh
# --requeue starts the job again after the failure of a machine. Three minutes before the time limit, the trap below ends all processes with
# a checkpoint, and puts the job back into the queue. The run continues in both cases. After a preemption, it depends on the cluster whether a
# job that has ended by itself is requeued.
# Since version 22.05, srun does not take --cpus-per-task from the lines above.
trap 'scancel --signal=TERM "$SLURM_JOB_ID"; wait; scontrol requeue "$SLURM_JOB_ID"' USR1
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 python main.py --config=configs/zigzag.py:voc2012 --workdir=/shared/zigzag &
wait $!
