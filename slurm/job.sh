# What every job does, once Slurm has started it on its first node. Sourced by the .sbatch files; `here` is this folder.
# shellcheck shell=bash disable=SC2154 # kit.sh sets them
set -euo pipefail

warned="" interrupted="" process=""
# The process numbers of this job's ranks on this node. The program's own file tells, not a name that others may have.
ranks_here() {
    local file
    for file in /proc/[0-9]*/exe; do
        [[ $file -ef $program ]] || continue
        ! grep -zqsx "SLURM_JOB_ID=$SLURM_JOB_ID" "${file%exe}environ" || basename "${file%/exe}"
    done
}

# To the launcher, for all ranks, and to those on this node: not every mpirun passes it on, and one rank that knows is
# enough. Twice does no harm.
pass_warning_on() {
    [[ -n $process ]] || return 0
    # shellcheck disable=SC2046 # words
    kill -USR1 "$process" $(ranks_here) 2>/dev/null || true
}

# Slurm's warning, some time before the job's time is up: the program saves and leaves.
trap 'warned=$EPOCHSECONDS interrupted=yes; pass_warning_on' USR1

source "$here/kit.sh"
read_site
parse_name "$SLURM_JOB_NAME"

ranks=$((devices * nodes))
((SLURM_JOB_NUM_NODES == nodes && SLURM_NTASKS == ranks)) ||
    die "$SLURM_JOB_NAME wants $nodes nodes and $ranks tasks, but this job has $SLURM_JOB_NUM_NODES and $SLURM_NTASKS: submit it with slurm/${devices}G${nodes}N.sbatch"

# Modules are loaded in the job's own shell; their scripts may use unset variables.
if ((${#modules[@]})); then
    set +eu
    module load "${modules[@]}" || die "module load ${modules[*]}: see above; modules are named in $site"
    set -eu
fi

# The job's folder: the same one each time that this job is started. What was put aside for it stays with it.
run=${WORKSHOP_RUN:-$runs/$SLURM_JOB_NAME-$SLURM_JOB_ID}
find_kit
find_program "$SLURM_JOB_NAME"
if [[ -z ${WORKSHOP_ASIDE:-} ]]; then
    aside=$runs/.submitted/of-$SLURM_JOB_ID
    mkdir -p "$runs/.submitted" || die "$runs: cannot be written"
    [[ -e $aside ]] || ln -s "$(put_aside "$runs/.submitted")" "$aside"
    WORKSHOP_ASIDE=$(readlink -f "$aside")
fi
program=$WORKSHOP_ASIDE/libexec/workshop/$device/$stage/train

# The series of memory that an earlier start of this job has left.
if [[ -f $run/memory.csv ]]; then mv "$run/memory.csv" "$run/memory-before-start-$((${SLURM_RESTART_COUNT:-0} + 1)).csv"; fi

settings_for
[[ -z $model ]] || job_settings+=(--model_name_or_path "$model")
[[ -z $train_file ]] || job_settings+=(--train_file "$train_file")
[[ -z $validation_file ]] || job_settings+=(--validation_file "$validation_file")
job_settings+=(--save_on_signal usr1 --resume_from_checkpoint true --disable_tqdm true "${settings[@]}" "$@"
    --output_dir "$run")

# One rank needs no launcher. mpirun finds the allocation's nodes by itself and starts its daemons through Slurm.
[[ -n $launcher ]] || launcher=$(command -v mpirun >/dev/null && echo mpirun || echo srun)
command=()
if ((ranks > 1)) && [[ $launcher == mpirun ]]; then
    command=(mpirun -n "$ranks")
    if mpirun --version 2>&1 | grep -q 'Open MPI'; then
        command+=(--bind-to none --oversubscribe --mca btl_base_warn_component_unused 0)
        ((EUID != 0)) || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
elif ((ranks > 1)); then
    command=(srun --mpi="$mpi" --kill-on-bad-exit=1 --cpu-bind=none)
    [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || command+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
fi

# The program ends itself when a node is lost, and mpirun may then wait for that node: it is ended, too.
end_launcher_without_ranks() {
    local seen="" missed=0
    trap '' USR1
    while sleep 3; do
        if [[ -n $(ranks_here) ]]; then
            seen=yes missed=0
        elif [[ -n $seen ]] && ((++missed == 3)); then
            say "error: the program has ended here, but ${command[0]} goes on: it waits for a node that is gone, and is ended"
            kill -KILL "$process" 2>/dev/null || true # a mild signal it would not hear while it waits
            return
        fi
    done
}

echo "== $SLURM_JOB_NAME, job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date '+%F %T'), on $SLURM_JOB_NODELIST"
echo "== ${command[*]:+${command[*]} }$program ${job_settings[*]}"
[[ -n $model ]] || echo "== no model in site.conf: the tiny one, on the sample text"

"${command[@]}" "$program" "${job_settings[@]}" &
process=$!
[[ -z $warned ]] || pass_warning_on
watcher=""
if ((nodes > 1)); then
    end_launcher_without_ranks &
    watcher=$!
fi
status=0
while :; do # a signal that has a trap ends wait, not the program
    interrupted="" status=0
    wait "$process" || status=$?
    [[ -n $interrupted ]] || break
done
[[ -z $watcher ]] || kill "$watcher" 2>/dev/null || true

echo "== the program ended with exit code $status after $SECONDS s"
"$here/memory_summary" "$run" || true

# srun says 0, too, where it could not start the program on a node: the summary tells.
if ((status == 0)) && ! grep -qs '"event":"summary"' "$run/metrics.jsonl"; then
    say "error: the program has not come to its end: see above"
    status=1
fi
# 75 is the program's "saved, go on later". srun may already be ending the last ranks when they leave, and then says so
# instead: a checkpoint since the warning says the same.
if [[ -n $warned ]] && ((status > 128)) &&
    [[ -n $(find "$run" -maxdepth 1 -name 'checkpoint-*' ! -name '*.part' -newermt "@$warned") ]]; then
    status=75
fi
# Slurm then starts this job again, under the same number, from the top of this file; the program finds the checkpoint
# in its folder.
if ((status == 75)); then
    echo "== requeued: goes on from its last checkpoint"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this script
    say "error: Slurm does not requeue this job: go on with slurm/submit --resume ${run##*-} $SLURM_JOB_NAME"
fi
exit "$status"
