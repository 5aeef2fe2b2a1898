# shellcheck shell=bash
#
# Starts and ends the cluster's processes by record.
#
# A record is a file with a process id and that process's start time, in ticks since boot. An id alone says nothing: it
# is given to another process sooner or later, and a cluster's processes may be ended from outside at any time.

process_record_file() { echo "$CLUSTER_DIR/run/$1"; }
process_log_file() { echo "$CLUSTER_DIR/log/$1.log"; }

# The start time of a process id; fails if there is no such process or if only its exit status is left.
process_start_time() {
    local stat fields
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    # The second field is the program's name in parentheses and may contain anything, so count from its end.
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} != Z && ${fields[0]} != X ]] || return 1
    echo "${fields[19]}"
}

# Nothing is left running when the record shows: whoever sees a launcher's record takes its first child for its command. So the
# shell writes it by itself, in one write; a reader that comes before it finds an empty record, which is none.
process_record() {
    local name=$1 pid=$2 start
    start=$(process_start_time "$pid") || return 1
    mkdir -p "$CLUSTER_DIR/run"
    echo "$pid $start" >"$(process_record_file "$name")"
}

# Prints the id of a recorded process; fails if it does not run any more.
process_id() {
    local pid start now
    { read -r pid start <"$(process_record_file "$1")"; } 2>/dev/null || return 1
    now=$(process_start_time "$pid") || return 1
    [[ $now == "$start" ]] || return 1
    echo "$pid"
}

process_is_alive() { process_id "$1" >/dev/null; }

# Starts a command detached, with its log, unless the process of that name runs. The log of the run before is kept.
process_start() {
    local name=$1 log
    shift
    ! process_is_alive "$name" || return 0
    log=$(process_log_file "${name%-launcher}")
    mkdir -p "$(dirname "$log")"
    [[ ! -e $log ]] || mv "$log" "$log.1"
    # It records itself before it becomes the command, so there is no moment in which it runs without a record; env, setsid
    # and nsenter replace themselves by the command, which keeps the id and the start time.
    # No proxy of this machine can reach the cluster's addresses, and no folder of the caller should be kept busy.
    (
        process_record "$name" "$BASHPID"
        exec env --chdir=/ -u http_proxy -u https_proxy -u all_proxy -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY setsid "$@"
    ) >"$log" 2>&1 </dev/null 9>&- &
    disown # The shell would report its end otherwise.
}

# Like process_start, for a command that runs as the child of the one that is started, its launcher.
process_start_child() {
    local name=$1
    shift
    ! process_is_alive "$name" || return 0
    # A launcher without record of its child: the `up` that started it was killed, or the child was and it ends, too.
    while process_is_alive "$name-launcher"; do
        ! process_adopt "$name" || return 0
        sleep 0.01
    done
    process_start "$name-launcher" "$@"
    wait_for "start of $name" 10 process_adopt "$name"
}

# Records the child of a launcher.
process_adopt() {
    local name=$1 launcher child=
    launcher=$(process_id "$name-launcher") || return 1
    { read -r child _ <"/proc/$launcher/task/$launcher/children"; } 2>/dev/null || true
    [[ -n $child ]] && process_record "$name" "$child"
}

# Ends a recorded process without notice and waits until it is gone.
process_kill() {
    local name=$1 pid
    if pid=$(process_id "$name"); then
        kill -KILL "$pid" 2>/dev/null || true
        wait_for "end of $name" 30 process_is_gone "$name"
    fi
    rm -f "$(process_record_file "$name")"
}

process_is_gone() { ! process_is_alive "$1"; }

# The names of all records, of live and of dead processes.
process_names() {
    local record
    for record in "$CLUSTER_DIR"/run/*; do
        [[ ! -f $record ]] || basename "$record"
    done
}
