# shellcheck shell=bash
# What the job scripts share. They set `jobs`, the folder of this file, and get
#   launch PROGRAM…         runs a program on all ranks (from the machine file)
#   resources RANKS         prints what sbatch must be asked for, for so many ranks a node (from the machine file)
#   train FOLDER DECK …     trains, once or again, and says by its exit code whether that is all
: "${jobs:?set by the job script}"
root=$(cd "$jobs/.." && pwd)

# This job's number; of a task of an array, its own and not that of the whole array.
job=${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-}}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}

# The program: TAWPIPE, else this repository's, else that of the PATH (a module, Spack). A machine file may change it,
# and add settings for the deck.
tawpipe=(tawpipe)
[ ! -x "$root/target/release/tawpipe" ] || tawpipe=("$root/target/release/tawpipe")
settings=()
resources() { :; }

MACHINE=${MACHINE:-cpu}
[ -f "$MACHINE" ] || MACHINE=$jobs/machines/$MACHINE.sh
# shellcheck source=jobs/machines/cpu.sh
source "$MACHINE" || { echo "no machine file $MACHINE; jobs/machines/ has some, template.sh is for yours" >&2; exit 2; }
[ -z "${TAWPIPE:-}" ] || tawpipe=("$TAWPIPE")

# Asked to end by scancel, a preemption or for a lost node: the ranks have the signal too and write a checkpoint. Whether
# the job starts again has been decided by Slurm then, not here.
cancelled=no
trap 'cancelled=yes' TERM

# Seconds until Slurm ends this job; nothing if it never will.
time_left() {
    local text days=0 part seconds=0
    text=$(squeue -h -j "$job" -o %L)
    [[ $text =~ ^[0-9:-]+$ ]] || return 0
    [[ $text != *-* ]] || { days=${text%%-*} && text=${text#*-}; }
    for part in ${text//:/ }; do seconds=$((seconds * 60 + 10#$part)); done
    echo $((seconds + days * 86400))
}

# The program's wall time: what is left, less a margin for the last step and its checkpoint (MARGIN, seconds). The
# program then ends by itself; Slurm's signal is for when it is asked to end earlier.
wall_time() {
    local left margin=${MARGIN:-180}
    left=$(time_left)
    [ -n "$left" ] || return 0
    [ "$margin" -lt "$left" ] || margin=$((left / 2))
    echo $((left - margin))
}

# Number of the newest checkpoint of a run folder; nothing if there is none.
newest() {
    local file
    for file in "$1"/checkpoints/step_*.h5; do
        [ ! -e "$file" ] || basename "$file" .h5
    done | sed s/step_// | sort -n | tail -n 1
}

# Puts this job back into the queue, under its own number.
again() {
    if [ "$cancelled" = yes ]; then
        echo "job $job: ended by Slurm, which decides whether it starts again"
    elif scontrol requeue "$job"; then
        echo "job $job: $1; requeued"
    else
        echo "job $job: $1, but it may not be requeued: submit it again" >&2
    fi
}

# train FOLDER DECK [options of tawpipe train]: trains until the run is done or this job's time is over. Returns 0 when
# nothing is left to do, else the program's exit code, having put the job back into the queue where that can help.
train() {
    local folder=$1 deck=$2 step wall code failures failed_at
    shift 2
    if [ -e "$folder/DONE" ]; then
        echo "$folder: done"
        return 0
    fi
    step=$(newest "$folder")
    local more=()
    wall=$(wall_time)
    [ -z "$wall" ] || more+=(--set "run.wall_time=$wall")
    if [ -n "$step" ]; then
        more+=(--resume)
    elif [ -n "${SLURM_RESTART_COUNT:-}" ] && [ -e "$folder" ]; then
        # This job's own, ended before its first checkpoint: nothing in it can be continued.
        mv "$folder" "$folder.before-restart-$SLURM_RESTART_COUNT"
    fi
    # In the background, because a shell that waits for a foreground program sees no signals.
    launch "${tawpipe[@]}" train "$deck" --set "run.folder=$folder" "${settings[@]}" "${more[@]}" "$@" &
    wait $!
    code=$?
    # A signal interrupts the waiting.
    [ "$cancelled" = no ] || { wait $!; code=$?; }
    case $code in
        0) rm -f "$folder.failures" ;;
        2) echo "job $job: bad input; starting again would not mend it" >&2 ;;
        3) again "stopped by a signal" ;;
        4) again "stopped by the wall time" ;;
        *)
            # A lost node or link. Three failures at the same checkpoint are no accident.
            step=$(newest "$folder")
            [ ! -e "$folder.failures" ] || read -r failures failed_at <"$folder.failures"
            [ "${failed_at:-}" = "${step:-0}" ] || failures=0
            failures=$((failures + 1))
            echo "$failures ${step:-0}" >"$folder.failures"
            if [ "$failures" -lt 3 ]; then
                again "failed with code $code at or after step ${step:-0}"
            else
                echo "job $job: failed $failures times at or after step ${step:-0}, so it stays down" >&2
            fi
            ;;
    esac
    return "$code"
}
