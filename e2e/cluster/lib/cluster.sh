# shellcheck shell=bash
# shellcheck disable=SC2034  # The other files read these.
#
# The cluster's name, folders and addresses: one place for every value that two files share.

CLUSTER=${MILLRACE_CLUSTER:-millrace}
CLUSTER_NODES=(1 2)

# Everything the cluster writes is below here, and `down` removes it.
CLUSTER_DIR=$(realpath --canonicalize-missing \
    "${MILLRACE_CLUSTER_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/millrace/cluster}/$CLUSTER")
# What was built outlives every cluster.
CACHE_DIR=$(realpath --canonicalize-missing "${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}")

# The addresses exist only inside the cluster's namespaces, so every cluster of a machine can have the same ones.
CONTROL_ADDRESS=10.100.0.1
CONTROL_PREFIX=24
POD_CIDR=10.88.0.0/16
SERVICE_CIDR=10.96.0.0/16
KUBERNETES_SERVICE_ADDRESS=10.96.0.1
DNS_SERVICE_ADDRESS=10.96.0.10
API_PORT=6443
KAFKA_PORT=9092            # Advertises kafka.infra.svc, for pods.
KAFKA_ADDRESS_PORT=9094    # Advertises the bridge address, for tests.
KAFKA_CONTROLLER_PORT=9093
S3_PORT=7070

# Fixed, because the store exists only inside the cluster's namespaces.
S3_ACCESS_KEY=millrace
S3_SECRET_KEY=millrace-secret
S3_BUCKET=millrace

KUBECONFIG_ADMIN=$CLUSTER_DIR/kubeconfig

node_address() { echo "10.100.0.$((10 + $1))"; }
node_pod_cidr() { echo "10.88.$1.0/24"; }
node_name() { echo "node$1"; }
node_dir() { echo "$CLUSTER_DIR/$(node_name "$1")"; }

# Names of namespaces, cgroups and folders are made of it.
[[ $CLUSTER =~ ^[a-z][a-z0-9-]{0,19}$ ]] || {
    echo "MILLRACE_CLUSTER: lower-case letters, digits and dashes, at most 20, not \"$CLUSTER\"" >&2
    exit 1
}

say() { echo "cluster $CLUSTER: $*"; }
fail() { echo "cluster $CLUSTER: $*" >&2; exit 1; }

# Runs a command every 0.05 s until it succeeds; the deadline is in seconds.
wait_for() {
    local what=$1 seconds=$2
    shift 2
    local deadline=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "$what: not within $seconds s (logs are in $CLUSTER_DIR/log)"
        sleep 0.05
    done
}

# One verb at a time changes a cluster. Started processes must not inherit the lock: they close descriptor 9. The file
# stays: removing it would let one verb hold the removed file and the next a new one.
cluster_lock() {
    mkdir -p /run/lock
    exec 9>"/run/lock/millrace-$CLUSTER.lock"
    flock 9
}

# Nothing of a cluster survives a restart of the machine except its folder, and etcd's part of that may be torn.
cluster_forget_former_boot() {
    local boot
    boot=$(</proc/sys/kernel/random/boot_id)
    if [[ -d $CLUSTER_DIR && $(cat "$CLUSTER_DIR/boot" 2>/dev/null) != "$boot" ]]; then
        say "the machine was restarted, so the cluster starts from nothing"
        rm -rf --one-file-system "$CLUSTER_DIR"
    fi
    mkdir -p "$CLUSTER_DIR"
    echo "$boot" >"$CLUSTER_DIR/boot"
}

# Writes what `enter` gives to commands.
cluster_describe() {
    cat >"$CLUSTER_DIR/env" <<END
KUBECONFIG=$KUBECONFIG_ADMIN
MILLRACE_CLUSTER=$CLUSTER
MILLRACE_KAFKA=$CONTROL_ADDRESS:$KAFKA_ADDRESS_PORT
MILLRACE_S3=http://$CONTROL_ADDRESS:$S3_PORT
MILLRACE_S3_BUCKET=$S3_BUCKET
AWS_ACCESS_KEY_ID=$S3_ACCESS_KEY
AWS_SECRET_ACCESS_KEY=$S3_SECRET_KEY
AWS_REGION=us-east-1
AWS_ENDPOINT_URL=http://$CONTROL_ADDRESS:$S3_PORT
MILLRACE_KAFKA_JARS=$(binaries_dir kafka)/jars
END
    # Files before DNS: these two names lead to the processes themselves, because the control network has no kube-proxy.
    {
        cat /etc/hosts
        echo "$CONTROL_ADDRESS kafka.infra.svc kafka.infra.svc.cluster.local s3.infra.svc s3.infra.svc.cluster.local"
    } >"$CLUSTER_DIR/hosts"
    cat >"$CLUSTER_DIR/resolv.conf" <<END
nameserver $CONTROL_ADDRESS
search svc.cluster.local cluster.local
options ndots:5
END
}
