# shellcheck shell=bash
#
# What the machine has to have. Names what is missing; installs nothing by itself.

# Program or file, and the Debian package it comes from.
PREREQUISITES_RUN=(
    containerd=containerd ctr=containerd runc=runc /usr/lib/cni/ptp=containernetworking-plugins
    iptables=iptables conntrack=conntrack ip=iproute2 openssl=openssl
)
PREREQUISITES_BUILD=(gcc=gcc /usr/include/stdio.h=libc6-dev)
# These are a matter of taste (version managers, vendors), so they are checked but not installed.
PREREQUISITES_GO=1.25
PREREQUISITES_JAVA=17

# Prints what is missing, one a line. With "build", also what only a build needs.
prerequisites_missing() {
    local what=$1
    ((EUID == 0)) || echo "root: namespaces, mounts and cgroups need it"
    prerequisites_packages "$what" | sed 's/^/Debian package /'
    prerequisites_java
    [[ $what != build ]] || prerequisites_builders
    prerequisites_kernel
}

# Prints what tests beside a broker and an S3 server lack, one a line.
prerequisites_missing_servers() {
    ((EUID == 0)) || echo "root: a full disk is a small file system that is mounted"
    prerequisites_java
    command -v openssl >/dev/null || echo "openssl: makes the certificates of a broker with TLS"
    [[ -z $(binaries_missing | grep -xE 'kafka|versitygw') ]] || prerequisites_builders
}

prerequisites_java() {
    local version
    version=$(java -version 2>&1 | sed -nE '1s/.*"([0-9]+).*/\1/p') || true
    ((${version:-0} >= PREREQUISITES_JAVA)) || echo "java $PREREQUISITES_JAVA or later: Kafka runs on it"
}

prerequisites_builders() {
    local version
    command -v mvn >/dev/null || echo "mvn: fetches Kafka"
    version=$(go env GOVERSION 2>/dev/null) || true
    printf 'go%s\n%s\n' "$PREREQUISITES_GO" "${version:-none}" | sort --version-sort --check=quiet &&
        [[ -n $version ]] || echo "go $PREREQUISITES_GO or later: builds everything else"
}

# Prints the Debian packages that are missing, one a line.
prerequisites_packages() {
    local what=$1 pair wanted=("${PREREQUISITES_RUN[@]}")
    [[ $what != build ]] || wanted+=("${PREREQUISITES_BUILD[@]}")
    for pair in "${wanted[@]}"; do
        prerequisites_has "${pair%=*}" || echo "${pair#*=}"
    done | sort -u
}

prerequisites_has() {
    if [[ $1 == /* ]]; then
        [[ -e $1 ]]
    else
        command -v "$1" >/dev/null
    fi
}

prerequisites_kernel() {
    local directory=$CLUSTER_DIR
    until [[ -d $directory ]]; do
        directory=$(dirname "$directory")
    done
    [[ $(stat --file-system --format=%T "$directory") != overlayfs ]] ||
        echo "MILLRACE_CLUSTER_DIR on a real disk: container images cannot be layered in $directory, which is an overlay itself"
    [[ -e /sys/fs/cgroup/cgroup.controllers || -d /sys/fs/cgroup/memory ]] || echo "cgroups mounted at /sys/fs/cgroup"
}
