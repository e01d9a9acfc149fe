# shellcheck shell=bash
#
# ./workshop fetch: a real BLOOM and SQuAD from the Hugging Face hub. Sourced by `workshop`, whose say(), die(), root and
# require_curl() it uses.

#
# As huggingface_hub does it: a HEAD request on ENDPOINT/REPO/resolve/REVISION/FILE tells commit, size and checksum
# (SHA-256 of large files, git's SHA-1 of small ones); the bytes go into blobs/CHECKSUM, and snapshots/COMMIT/FILE is a
# link to them. The branch's file in refs/ is written when the snapshot is whole.

squad_files=(train-v1.1.json dev-v1.1.json)
squad_sums=(3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955
    95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9)

bytes_of() { stat -c %s "$1" 2>/dev/null || echo 0; }
human() { numfmt --to=si --suffix=B --format=%.1f "$1"; }

# curl; the token goes to the hub only, and not through the command line, where other users would see it.
fetch_curl() { # URL, curl's arguments
    local url=$1 token=""
    shift
    [[ $url != "$endpoint"/* || -z ${HF_TOKEN-} ]] || token="oauth2-bearer = \"$HF_TOKEN\""
    curl --silent --connect-timeout 30 --speed-limit 1 --speed-time 60 --config <(printf '%s\n' "$token") "$@" "$url"
}

curl_reason() { # EXIT_CODE
    case $1 in
    5 | 6) echo "its name is not known (no network, or a wrong address?)" ;;
    7 | 28) echo "it does not answer (no network?)" ;;
    35 | 51 | 53 | 54 | 58 | 59 | 60 | 77 | 83) echo "no trusted TLS connection (curl's error $1)" ;;
    18 | 52 | 55 | 56 | 92) echo "the connection breaks" ;;
    *) echo "curl's error $1 (see: man curl)" ;;
    esac
}

# HEAD: sets commit, sum and size of what lies at the address; false where nothing does.
ask() { # URL WHAT
    local url=$1 what=$2 headers status location error code=0
    commit="" sum="" size=""
    header() { awk -v name="$1:" 'tolower($1) == name { print $2; exit }' <<<"$headers"; }
    for _ in 1 2 3 4 5; do
        headers=$(fetch_curl "$url" --head --suppress-connect-headers --header 'Accept-Encoding: identity') || code=$?
        ((code == 0)) || die "$what: cannot reach $url: $(curl_reason "$code")"
        headers=${headers//$'\r'/}
        status=$(awk 'NR == 1 { print $2 }' <<<"$headers")
        location=$(header location)
        commit=${commit:-$(header x-repo-commit)}
        # A redirection inside the hub is followed; one to where the bytes lie is not: its headers tell enough.
        [[ $status == 30? && $location == /* ]] || break
        url=$(sed -E 's|^([a-z]+://[^/]+).*|\1|' <<<"$url")$location
    done
    error=$(header x-error-code)
    case $status:$error in
    200:* | 30?:*) ;;
    *:GatedRepo) die "$what: its authors want its terms accepted first: do so at ${url%/resolve/*}, then set HF_TOKEN" ;;
    *:RepoNotFound | 401:* | 403:*) die "$what: not at $url, or not for everyone: check the name, or set HF_TOKEN (status $status)" ;;
    *:RevisionNotFound) die "$what: it has no such revision: check --revision" ;;
    404:*) return 1 ;;
    *) die "$what: $url answers with status $status: try again later" ;;
    esac
    sum=$(header x-linked-etag) size=$(header x-linked-size)
    sum=${sum:-$(header etag)}
    [[ $status != 200 ]] || size=${size:-$(header content-length)}
    sum=${sum#W/} sum=${sum//\"/}
    [[ $size =~ ^[0-9]+$ ]] || die "$what: $url does not say its size: is this a Hugging Face hub?"
}

checksum_of() { # FILE SUM: the file's checksum of the kind that SUM is
    if ((${#2} == 64)); then sha256sum <"$1"; else { printf 'blob %s\0' "$(bytes_of "$1")"; cat "$1"; } | sha1sum; fi |
        cut -d ' ' -f 1
}

meter() { # FILE SIZE NAME: shows how far the download is, until it is killed or the command has ended
    local now
    while kill -0 $$ 2>/dev/null; do
        now=$(bytes_of "$1")
        printf '\r  %s: %s of %s (%d%%)\e[K' "$3" "$(human "$now")" "$(human "$2")" $((100 * now / ($2 + 1))) >&2
        sleep 0.5
    done
}

# Downloads to TARGET, going on with what TARGET.incomplete has; verifies size and checksum. Runs in a subshell, whose
# end stops the meter.
bring() { # NAME URL SIZE SUM TARGET
    local name=$1 url=$2 size=$3 sum=$4 target=$5 part=$5.incomplete have tries=0 code status
    [[ ! -f $target || $(bytes_of "$target") != "$size" ]] || return 0
    : >>"$part" || die "$part: cannot be written"
    have=$(bytes_of "$part")
    if ((have > 0)); then say "  $name ($(human "$size")), going on at $(human "$have")"
    else say "  $name ($(human "$size"))"; fi
    if [[ -t 2 ]]; then
        meter "$part" "$size" "$name" &
        # shellcheck disable=SC2064 # this meter
        trap "kill $!; printf '\\r\\e[K' >&2" EXIT
    fi
    while have=$(bytes_of "$part"); ((have != size)); do
        code=0
        status=$(fetch_curl "$url" --fail --location --continue-at - --output "$part" --write-out '%{http_code}') || code=$?
        # The server does not resume, or what is here is longer than the file: from the start.
        if ((code == 33 || $(bytes_of "$part") > size)) || [[ $status == 416 ]]; then : >"$part"; fi
        [[ $code != 23 ]] || die "$part: cannot be written (is the disk full?)"
        [[ $code != 22 || $status =~ ^(416|429|5..)$ ]] || die "$name: $url answers with status $status"
        if (($(bytes_of "$part") > have)); then tries=0; else tries=$((tries + 1)); fi
        ((tries < 5)) || die "$name: $(curl_reason "$code"): what came is kept: run the same command again later"
        sleep "$tries"
    done
    have=$(checksum_of "$part" "$sum")
    if [[ $have != "$sum" ]]; then
        rm -f "$part"
        die "$name: wrong checksum ($have instead of $sum): the file was deleted: run the same command again"
    fi
    mv "$part" "$target" || die "$target: cannot be written"
}

# Plans one file of the hub's repository (nothing is downloaded yet): false where it has no such file.
hub_file() { # REPO FILE
    local target
    ask "$endpoint/$address/resolve/${commit_pinned:-${revision//\//%2F}}/$2" "$1" || return 1
    [[ $commit =~ ^[0-9a-f]{40}$ ]] || die "$1: $endpoint does not say its commit: is this a Hugging Face hub?"
    [[ $sum =~ ^([0-9a-f]{40}|[0-9a-f]{64})$ ]] || die "$1: $endpoint gives no checksum of $2: is this a Hugging Face hub?"
    commit_pinned=$commit
    target=$folder/blobs/$sum
    plan+=("$2 $size $sum")
    [[ -f $target ]] || coming=$((coming + size - $(bytes_of "$target.incomplete")))
}

hub_start() { # KIND REPO REVISION: KIND is models or datasets
    local name='[A-Za-z0-9_][A-Za-z0-9._-]*'
    [[ $2 =~ ^($name/)?$name$ && $2 != *..* ]] || die "'$2' is no repository's name: it looks like bigscience/bloom-560m"
    [[ $3 =~ ^[A-Za-z0-9._/-]+$ && $3 != *..* ]] || die "--revision '$3' is no name of a branch, tag or commit"
    address=$2 revision=$3 commit_pinned="" plan=() coming=0
    [[ $1 == models ]] || address=$1/$2
    folder=$hub_cache/$1--${2//\//--}
    mkdir -p "$folder/blobs" "$hub_cache/.locks/${folder##*/}" || die "$folder: cannot be written"
}

# Downloads what was planned: the lock is the one that huggingface_hub takes.
hub_bring() {
    local file size sum link
    check_space "$folder" "$coming"
    for link in "${plan[@]}"; do
        read -r file size sum <<<"$link"
        (
            flock 8
            bring "$file" "$endpoint/$address/resolve/$commit_pinned/$file" "$size" "$sum" "$folder/blobs/$sum"
        ) 8>"$hub_cache/.locks/${folder##*/}/$sum.lock" || exit
        link=$folder/snapshots/$commit_pinned/$file
        mkdir -p "${link%/*}"
        [[ $(readlink "$link") == "../../blobs/$sum" ]] || ln -sfn "../../blobs/$sum" "$link"
    done
    plan=() coming=0
}

hub_finish() { # the branch now stands for this commit
    [[ $revision != "$commit_pinned" ]] || return 0
    mkdir -p "$(dirname "$folder/refs/$revision")"
    printf %s "$commit_pinned" >"$folder/refs/$revision"
}

check_space() { # FOLDER BYTES
    local free
    free=$(($(df -Pk "$1" | awk 'NR == 2 { print $4 }') * 1024))
    (($2 < free)) || die "$1: $(human "$2") are needed, $(human "$free") are free: make room, or set HF_HOME to another disk"
}

fetch_model() { # REPO REVISION
    local file shard
    say "$1 from $endpoint"
    hub_start models "$1" "$2"
    hub_file "$1" config.json || die "$1: no config.json at $endpoint: not a model, or no such one"
    hub_bring
    grep -q '"model_type": *"bloom"' "$folder/snapshots/$commit_pinned/config.json" ||
        die "$1 is not a BLOOM: its config.json has another model_type"
    hub_file "$1" tokenizer.json || die "$1: it has no tokenizer.json"
    for file in tokenizer_config.json special_tokens_map.json; do hub_file "$1" "$file" || true; done
    if ! hub_file "$1" model.safetensors; then
        hub_file "$1" model.safetensors.index.json ||
            die "$1: no model.safetensors in revision $2: a conversion may be among its pull requests: --revision refs/pr/N"
        hub_bring
        for shard in $(grep -o '"[A-Za-z0-9._-]*\.safetensors"' \
            "$folder/snapshots/$commit_pinned/model.safetensors.index.json" | tr -d '"' | sort -u); do
            hub_file "$1" "$shard" || die "$1: model.safetensors.index.json names $shard, which is not there"
        done
    fi
    hub_bring
    hub_finish
    say "$1: all there and verified: $folder/snapshots/$commit_pinned"
    # The programs look for the branch main; another revision they are given as the folder it is in.
    if [[ $2 == main ]]; then echo "--model_name_or_path $1"
    else echo "--model_name_or_path $folder/snapshots/$commit_pinned"; fi
}

# SQuAD's two files, from a data set of the hub or from any web folder.
fetch_squad() { # REPO URL
    local index file where
    if [[ -n $1 ]]; then
        say "SQuAD from $endpoint/datasets/$1"
        hub_start datasets "$1" main
        for file in "${squad_files[@]}"; do hub_file "$1" "$file" || die "$1: it has no $file"; done
        hub_bring
        hub_finish
        where=$folder/snapshots/$commit_pinned
    else
        say "SQuAD from $2"
        where=$hf_home/squad
        mkdir -p "$where" || die "$where: cannot be written"
        for index in 0 1; do
            file=${squad_files[index]}
            [[ ! -f $where/$file || $(checksum_of "$where/$file" "${squad_sums[index]}") != "${squad_sums[index]}" ]] ||
                continue
            rm -f "$where/$file"
            ask "$2/$file" SQuAD || die "SQuAD: no $file at $2: check --squad-url"
            check_space "$where" $((size - $(bytes_of "$where/$file.incomplete")))
            (flock 8 && bring "$file" "$2/$file" "$size" "${squad_sums[index]}" "$where/$file") 8>"$where/.lock" || exit
        done
    fi
    say "SQuAD: all there and verified: $where"
    echo "--train_file $where/${squad_files[0]} --validation_file $where/${squad_files[1]}"
}

fetch() {
    local model="" revision=main squad="" squad_repo="" squad_url=https://rajpurkar.github.io/SQuAD-explorer/dataset
    local home=~ use
    endpoint=${HF_ENDPOINT:-https://huggingface.co}
    hf_home=${HF_HOME:-${XDG_CACHE_HOME:-$home/.cache}/huggingface}
    hub_cache=${HF_HUB_CACHE:-${HUGGINGFACE_HUB_CACHE:-$hf_home/hub}}
    while (($#)); do
        case $1 in
        --squad) squad=yes; shift; continue ;;
        --revision | --endpoint | --squad-url | --squad-repo | --squad-sha256)
            [[ -n ${2-} ]] || die "$1 needs a value: ./workshop fetch --help" ;;&
        --revision) revision=$2 ;;
        --endpoint) endpoint=$2 ;;
        --squad-url) squad=yes squad_url=$2 ;;
        --squad-repo) squad=yes squad_repo=$2 ;;
        --squad-sha256)
            [[ $2 =~ ^[0-9a-f]{64},[0-9a-f]{64}$ ]] || die "--squad-sha256 takes two SHA-256 sums with a comma between"
            squad=yes squad_sums=("${2%,*}" "${2#*,}") ;;
        -*) die "fetch has no option '$1': ./workshop fetch --help" ;;
        *)
            [[ -z $model ]] || die "fetch takes one model at a time, not $model and $1"
            model=$1
            shift
            continue
            ;;
        esac
        shift 2
    done
    endpoint=${endpoint%/} squad_url=${squad_url%/}
    [[ -n $model || -n $squad ]] || model=bigscience/bloom-560m squad=yes
    require_curl
    use=""
    [[ -z $model ]] || use+=" $(fetch_model "$model" "$revision")"
    [[ -z $squad ]] || use+=" $(fetch_squad "$squad_repo" "$squad_url")"
    echo "./workshop run 01-baseline$use"
}
