# shellcheck shell=bash
#
# The nodes' cgroups. They have paths of their own below the root, beside everything else of the machine.

CGROUPS=/sys/fs/cgroup

# The path of a node's cgroup, the same in every hierarchy.
cgroups_path() { echo "/$CLUSTER-cluster/$1"; }

# Prints the folder of every hierarchy: several in version 1, one in version 2, several and one where both are mounted.
cgroups_hierarchies() {
    local type point
    while read -r _ point type _; do
        [[ $point != "$CGROUPS"* || ( $type != cgroup && $type != cgroup2 ) ]] || echo "$point"
    done </proc/mounts
}

# The kubelet requires its root cgroup to exist, with processors and memory that may be used.
cgroups_create() {
    local hierarchy parent child name=$1 setting
    while read -r hierarchy; do
        mkdir -p "$hierarchy$(cgroups_path "$name")"
        parent=$hierarchy
        for child in "$CLUSTER-cluster" "$name"; do
            if [[ -e $CGROUPS/cgroup.controllers ]]; then
                echo "+cpu +cpuset +io +memory +pids" >"$parent/cgroup.subtree_control"
            else
                # A new cpuset of version 1 is empty, and no process can be put into an empty one.
                for setting in cpuset.cpus cpuset.mems; do
                    [[ ! -e $parent/$setting ]] || cat "$parent/$setting" >"$parent/$child/$setting"
                done
            fi
            parent=$parent/$child
        done
    done < <(cgroups_hierarchies)
}

# Removes a node's cgroups, or all of the cluster's without an argument. Their processes have ended, but the kernel may
# still be burying them.
cgroups_remove() {
    local hierarchy path
    path=$(cgroups_path "${1:-}")
    while read -r hierarchy; do
        wait_for "removal of cgroup $hierarchy$path" 20 cgroups_remove_tree "$hierarchy${path%/}"
    done < <(cgroups_hierarchies)
}

cgroups_remove_tree() {
    [[ ! -d $1 ]] || find "$1" -depth -type d -exec rmdir {} +
}

# The ids, as the machine sees them, of the processes of a container.
cgroups_processes() {
    local hierarchies directory
    mapfile -t hierarchies < <(cgroups_hierarchies)
    # Every hierarchy has the same processes, so the first that is found will do.
    directory=$(find "${hierarchies[@]/%//$CLUSTER-cluster}" -type d -name "$1" -print -quit)
    [[ -z $directory ]] || cat "$directory/cgroup.procs"
}
