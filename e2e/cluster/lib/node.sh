# shellcheck shell=bash
#
# A node: a machine of its own as far as the kernel can make one.
#
# Network, process and mount namespaces, whose process 1 holds them (lib/machine). The end of process 1 is the loss of
# power of a real machine: the kernel ends every process of the node, shims and containers too, and drops its mounts; a
# list of their ids, which can be incomplete, is not needed. The node's disk is the folder node_dir, seen as /run/node inside.

node_machine() { echo "$(node_name "$1")-machine"; }

# Runs a command inside a running node.
node_exec() {
    local number=$1 pid
    shift
    pid=$(process_id "$(node_machine "$number")") || fail "$(node_name "$number") is down"
    nsenter --target "$pid" --net --mount --pid "$@"
}

# Boots the node and its container runtime, unless they run.
node_boot() {
    local number=$1 name directory
    name=$(node_name "$number")
    directory=$(node_dir "$number")
    if ! process_is_alive "$(node_machine "$number")"; then
        node_kill "$number" # What is left of its former life.
        node_configure "$number"
        network_node_create "$number"
        cgroups_create "$name"
        rm -f "$directory/booted"
        process_start_child "$(node_machine "$number")" nsenter --net="/run/netns/$(node_network "$number")" \
            unshare --mount --propagation private --pid --fork --kill-child=KILL \
            "$CLUSTER_LIB/machine" "$directory" "$(binaries_dir pause)/pause"
        wait_for "boot of $name" 10 test -e "$directory/booted"
    fi
    node_daemon "$number" containerd containerd --config /run/node/containerd.toml
    wait_for "container runtime of $name" 20 node_exec "$number" ctr version
    images_import_missing "$number"
}

# Starts what makes the machine a member of the cluster, unless it runs.
node_join() {
    local number=$1 kubernetes
    kubernetes=$(binaries_dir kubernetes)
    network_node_join "$number"
    node_daemon "$number" kubelet "$kubernetes/kubelet" \
        --config=/run/node/kubelet.yaml \
        --kubeconfig=/run/node/kubeconfig \
        --hostname-override="$(node_name "$number")" \
        --node-ip="$(node_address "$number")" \
        --root-dir=/var/lib/kubelet \
        --cert-dir=/var/lib/kubelet/pki
    node_daemon "$number" kube-proxy "$kubernetes/kube-proxy" --config=/run/node/kube-proxy.yaml
}

node_daemon() {
    local number=$1 daemon=$2 pid
    shift 2
    pid=$(process_id "$(node_machine "$number")") || fail "$(node_name "$number") is down"
    process_start_child "$(node_name "$number")-$daemon" nsenter --target "$pid" --net --mount --pid "$@"
}

# Takes the power from the node. Its cable goes first: a lost machine does not close its connections, it falls silent.
node_kill() {
    local number=$1 name process
    name=$(node_name "$number")
    network_node_cut "$number"
    # An `up` that was killed may not have got to it.
    process_adopt "$(node_machine "$number")" || true
    for process in machine containerd kubelet kube-proxy; do
        # After the first the kernel has ended the others; this waits for it and forgets them.
        process_kill "$name-$process"
        process_kill "$name-$process-launcher"
    done
    cgroups_remove "$name"
}

# Ready, and said so by the kubelet that runs now: what a killed one said last stays on record for a while.
node_is_ready() {
    local name ready heartbeat started
    name=$(node_name "$1")
    read -r ready heartbeat < <(kubectl_admin get node "$name" \
        -o 'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{"\n"}{end}')
    started=$(date --utc --reference="$(process_record_file "$name-kubelet")" +%FT%TZ 2>/dev/null) || return 1
    [[ $ready == True && $heartbeat > $started ]]
}

node_wait() {
    wait_for "$(node_name "$1") Ready" 60 node_is_ready "$1"
}

node_configure() {
    local number=$1 directory name
    name=$(node_name "$number")
    directory=$(node_dir "$number")
    mkdir -p "$directory"/{cni,containerd,kubelet,log}
    cp "$PKI_DIR/$name.kubeconfig" "$directory/kubeconfig"
    cp "$PKI_DIR/proxy.kubeconfig" "$directory/kube-proxy.kubeconfig"
    cp "$PKI_DIR/ca.crt" "$PKI_DIR/$name.crt" "$PKI_DIR/$name.key" "$directory/"
    # For pods with dnsPolicy Default; the machine's own servers cannot be reached from here.
    echo "nameserver $CONTROL_ADDRESS" >"$directory/resolv.conf"
    node_containerd_config >"$directory/containerd.toml"
    node_cni_config "$number" >"$directory/cni/pods.conflist"
    node_kubelet_config "$number" >"$directory/kubelet.yaml"
    node_proxy_config "$number" >"$directory/kube-proxy.yaml"
}

node_containerd_config() {
    cat <<END
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt",
]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$IMAGES_PAUSE"
  # Lowering the score needs CAP_SYS_RESOURCE; without it every sandbox would fail with "can't get final child's PID from pipe".
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/run/node/cni"
END
}

# Point to point instead of a bridge: replies between two pods of a node then pass the node's address translation even
# where the machine has no br_netfilter, and services work from their own pods.
node_cni_config() {
    cat <<END
{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{ "subnet": "$(node_pod_cidr "$1")" }]],
        "routes": [{ "dst": "0.0.0.0/0" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
END
}

# The eviction thresholds are low because every node sees the whole machine's memory and disk.
node_kubelet_config() {
    local name
    name=$(node_name "$1")
    cat <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: { enabled: false }
  webhook: { enabled: true }
  x509: { clientCAFile: /run/node/ca.crt }
authorization: { mode: Webhook }
tlsCertFile: /run/node/$name.crt
tlsPrivateKeyFile: /run/node/$name.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: $(cgroups_path "$name")
failCgroupV1: false
failSwapOn: false
volumePluginDir: /var/lib/kubelet/volume-plugins
resolvConf: /run/node/resolv.conf
clusterDNS: [$DNS_SERVICE_ADDRESS]
clusterDomain: cluster.local
nodeLeaseDurationSeconds: 10
nodeStatusUpdateFrequency: 4s
# There is no registry to pull a collected image from.
imageGCHighThresholdPercent: 100
evictionHard:
  memory.available: 100Mi
  nodefs.available: 1%
  nodefs.inodesFree: 1%
  imagefs.available: 1%
END
}

# The connection table is the machine's, so it is left alone.
node_proxy_config() {
    cat <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $POD_CIDR
hostnameOverride: $(node_name "$1")
clientConnection: { kubeconfig: /run/node/kube-proxy.kubeconfig }
conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s }
END
}
