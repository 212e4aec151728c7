#!/usr/bin/env bash
# A training as a Slurm job that is put into the queue again until it is finished:
#
#   sbatch scripts/slurm_job.sh --preset base
#
# Flags go to scripts/train_translation.py; the run directory is runs/JOB_NAME where the
# job was submitted, unless --run-dir says otherwise. Exit code 75 means stopped after a
# save. Set partition, account and devices on sbatch's command line or here.
#SBATCH --job-name=translation
#SBATCH --ntasks=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

stopping=
ending=

# The time limit and scancel end training with SIGTERM to the steps and perhaps to this
# script. Only the job's state tells them from the announcement: Slurm sets it before it
# signals, and a requeue would bring a cancelled job back. To be asked at the first sign
# of an end.
ask_state() {
  local state
  state=$(timeout 10 squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
  if [[ $state == COMPLETING || $state == CANCELLED ]]; then ending=yes; fi
}

# SIGTERM to srun would make it kill training (srun_job.c: "forcing job termination"), so
# scancel signals the steps; without --batch or --full not this script. A step that has not
# begun misses it, and gets its signal when the time is up.
signal_training() {
  if timeout 10 scancel --signal=TERM "$SLURM_JOB_ID"; then
    echo "the signal was passed on to training"
  else
    echo "scancel failed; training gets its signal when the time is up"
  fi
}

# Slurm signals this script only (B:), 60 s before the time is up. It is passed on once,
# and not if Slurm has told the steps itself: a second SIGTERM would end training without
# a save.
stop() {
  interrupted=yes
  if [[ -n $stopping ]]; then return; fi
  stopping=yes
  ask_state
  if [[ -n $ending ]]; then echo "Slurm is ending the job"; else signal_training; fi
}
trap stop TERM

srun python scripts/train_translation.py --place slurm "$@" &
child=$!
# A signal ends `wait` early, and not the child; 127 means that it was waited for already.
code=1
interrupted=yes
while [[ -n $interrupted ]]; do
  interrupted=
  wait "$child"
  status=$?
  if [[ $status != 127 ]]; then code=$status; fi
done
# 143: the signal came while Python was still starting, with nothing to save.
if [[ $code == 75 && -z $stopping ]]; then ask_state; fi
if [[ -n $ending ]]; then
  echo "stopped with $code; job $SLURM_JOB_ID was ended and stays so"
elif [[ $code == 75 || (-n $stopping && $code == 143) ]]; then
  echo "stopped with $code; job $SLURM_JOB_ID goes back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
