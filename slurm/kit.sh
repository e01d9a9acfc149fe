# What the job and the commands of this folder share: the names of jobs, what they stand for, and where programs are.
# Sourced; `here` is the folder of this file.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # names set here are used by those who source this file, who set `here`

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# ------------------------------------------------------------------------------------------------------------ names
#
# xZ[O][P]-xGxN[-S], as 2ZOP-2G4N-S:  2Z ZeRO stage 2 · O offload: the optimizer's state is on the host, with 3Z the
# parameters too · P what is offloaded is in pinned memory · 2G devices on each node · 4N nodes · S scaling: 500 training
# examples for each device, nothing saved. "baseline" in front instead of xZ is stage 01.

name_pattern='^(baseline|([0-3])Z(O?)(P?))-([1-9][0-9]*)G([1-9][0-9]*)N(-S)?$'

# One job a line: the allocation decides which file it is submitted with.
all_names() {
    local zero offload size
    echo baseline-1G1N
    for zero in 0 1 2 3; do echo "${zero}Z-1G1N"; done
    for zero in 1 2 3; do for offload in O OP; do echo "${zero}Z$offload-1G1N"; done; done
    for zero in 1 2 3; do for offload in "" O OP; do echo "${zero}Z$offload-2G1N"; done; done
    for size in 2G1N 4G1N 8G1N 2G2N 2G4N 2G8N; do echo "2ZOP-$size-S"; done
}

# Takes a name apart: zero (empty: baseline), offload, pinned, devices (of a node), nodes, scaling.
parse_name() { # NAME
    [[ $1 =~ $name_pattern ]] ||
        die "'$1' is no job's name: it looks like 2ZOP-2G1N (slurm/submit --list prints all of them)"
    zero=${BASH_REMATCH[2]} offload=${BASH_REMATCH[3]} pinned=${BASH_REMATCH[4]}
    devices=${BASH_REMATCH[5]} nodes=${BASH_REMATCH[6]} scaling=${BASH_REMATCH[7]}
    [[ -z $offload || $zero != 0 ]] || die "$1: ZeRO-0 offloads nothing: O goes with 1Z, 2Z and 3Z"
    [[ -z $pinned || -n $offload ]] || die "$1: P says that what O offloads is pinned: write ${zero}ZOP"
}

# The stages that can run the parsed name, the best first.
stages_for() {
    ((nodes == 1)) || echo 06-multinode
    if [[ -n $offload ]]; then echo 05-offload
    elif [[ -z $zero ]]; then echo 01-baseline
    elif [[ $zero == 0 ]]; then printf '%s\n' 05-offload 01-baseline
    else printf '%s\n' 02-zero1 03-zero2 04-zero3 | sed -n "${zero}p"; fi
}

# What the parsed name means to the program: sets the array job_settings.
settings_for() {
    job_settings=()
    [[ -z $zero ]] || job_settings+=(--zero_stage "$zero")
    [[ -z $offload ]] || job_settings+=(--offload_optimizer cpu)
    [[ -z $offload || $zero != 3 ]] || job_settings+=(--offload_param cpu)
    [[ -z $offload ]] || job_settings+=(--pin_memory "$([[ -n $pinned ]] && echo true || echo false)")
    [[ -z $scaling ]] ||
        job_settings+=(--samples_per_device 500 --subset_size 0 --save_strategy no --save_model false)
}

# --------------------------------------------------------------------------------------------------------- the site

# One site's values: of WORKSHOP_SITE, else of site.conf in the folder where the command was given, in slurm/ below it,
# or beside this file. All of them may be missing.
read_site() {
    partition="" account="" reservation="" qos="" constraint="" gres="" memory="" time="" options=()
    modules=() launcher="" mpi=pmix device="" model="" train_file="" validation_file="" settings=() runs=runs
    site=""
    local file
    for file in "${WORKSHOP_SITE:-}" site.conf slurm/site.conf "$here/site.conf"; do
        [[ -n $file && -f $file ]] || continue
        site=$(readlink -f "$file")
        # shellcheck source=/dev/null
        source "$site" || die "$site: cannot be read: see the message above"
        break
    done
    [[ -z ${WORKSHOP_SITE:-} || -n $site ]] || die "$WORKSHOP_SITE: there is no such file (WORKSHOP_SITE names it)"
    [[ $launcher =~ ^(|srun|mpirun)$ ]] || die "$site: launcher is srun or mpirun, not '$launcher'"
    [[ $device =~ ^(|cpu|cuda)$ ]] || die "$site: device is cpu or cuda, not '$device'"
}

# ------------------------------------------------------------------------------------------------------- programs

# Where programs are: in a clone's build folder, or in an installed copy (or one that was put aside for a job).
find_kit() {
    if [[ -f $here/../CMakeLists.txt ]]; then
        root=$(cd "$here/.." && pwd) programs=$root/build
    elif [[ -d $here/../../../libexec/workshop ]]; then
        root=$(cd "$here/.." && pwd) programs=$(cd "$here/../../../libexec/workshop" && pwd)
    else
        die "$here: neither in a clone of the workshop nor in an installed copy"
    fi
    if [[ -z $device ]]; then
        device=cpu
        [[ ! -d $programs/cuda ]] || device=cuda
    fi
}

# The stage that runs the parsed name and its program: sets stage and program.
find_program() { # NAME
    for stage in $(stages_for); do
        program=$programs/$device/$stage/train
        [[ ! -x $program ]] || return 0
    done
    die "$1 needs $(stages_for | paste -sd ' ' | sed 's/ / or /g'), and it is not in $programs/$device: build it with ./workshop build --device $device"
}

# Puts the stage's program, its settings and these scripts aside, so that a job runs what it was submitted with, however
# long it waits and whatever is built meanwhile. The folder's name is the checksum of what is in it: jobs that are the
# same share it. Prints it; its layout is that of an installed copy.
put_aside() { # FOLDER
    local part=$1/.part-$$-$RANDOM share sum
    share=$part/share/workshop
    mkdir -p "$part/libexec/workshop/$device/$stage" "$share/$stage" "$share/common" ||
        die "$1: cannot be written: give another folder as runs in site.conf"
    if ! cp "$program" "$part/libexec/workshop/$device/$stage/" || ! cp "$root/$stage/config.json" "$share/$stage/" ||
        ! cp -R "$root/common/sample" "$share/common/" || ! mkdir "$share/slurm" ||
        ! cp "$here"/*.sh "$here"/*.sbatch "$here/memory_summary" "$share/slurm/" ||
        ! cp "${site:-/dev/null}" "$share/slurm/site.conf"; then
        rm -rf "$part"
        die "$1: the program cannot be put aside there: is the disk full?"
    fi
    sum=$(cd "$part" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-16)
    # Another job may have been faster.
    mv -T "$part" "$1/$sum" 2>/dev/null || rm -rf "$part"
    readlink -f "$1/$sum"
}
