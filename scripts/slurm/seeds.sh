#!/usr/bin/env bash
# Ten seeds of one configuration as a Slurm array, each a job of its own that goes on after a time limit or preemption:
#
#   sbatch scripts/slurm/seeds.sh benchmark=mt10 surgery=pcgrad
#   sbatch --array=1-3 --gres=gpu:1 scripts/slurm/seeds.sh recipe=mt50
#
# Slurm sends SIGUSR1 three minutes before the time limit, and SIGTERM at a preemption (or SIGUSR1 where the cluster has
# preempt_send_user_signal). The run then saves the step that it is in, and the job goes back into the queue. The folder
# from which you submit it must be on a file system that all nodes share.
#SBATCH --job-name=mtrl
#SBATCH --array=1-10
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=mtrl-%A-%a.log
set -u

threads=${SLURM_CPUS_PER_TASK:-1}
export OMP_NUM_THREADS=$threads
stopped=
run=
# The run gets the signal only once its process is no longer this script: until then, bash's own handler would take it.
stop() {
    local mine its
    read -r mine <"/proc/$$/comm"
    while read -r its <"/proc/$run/comm" && [ "$its" = "$mine" ]; do sleep 0.1; done 2>/dev/null
    kill -USR1 "$run"
}
trap 'stopped=yes; [ -z "$run" ] || stop' USR1 TERM
mtrl train "$@" seed="$SLURM_ARRAY_TASK_ID" threads="$threads" &
run=$! early=$stopped
[ -z "$early" ] || kill -KILL "$run" # a signal has come before the run's number was known, so there is nothing to save

# A signal ends `wait` before the run has ended.
wait "$run"
code=$?
while kill -0 "$run" 2>/dev/null; do
    wait "$run"
    code=$?
done
if [ -n "$stopped" ] && [ "$code" -ne 0 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
