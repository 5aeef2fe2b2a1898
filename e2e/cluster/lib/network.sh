# shellcheck shell=bash
#
# The cluster's network: namespaces of its own, nothing in the machine's.
#
#   control  br0 10.100.0.1 ─┬─ n1 ── eth0 10.100.0.11  node1 ── pods 10.88.1.0/24
#                            └─ n2 ── eth0 10.100.0.12  node2 ── pods 10.88.2.0/24
#
# Every namespace has a route to every pod network: the API server calls webhooks in pods, and tests call pods. There is
# no default route, so nothing in the cluster reaches or is reached from outside.

CONTROL_NETWORK=$CLUSTER-control
node_network() { echo "$CLUSTER-$(node_name "$1")"; }
network_link() { echo "n$1"; } # The control namespace's end of a node's cable.

# Hardware addresses follow the IP addresses: a node that comes back is found at once, not after its neighbours' caches expire.
network_hardware_address() {
    local octets
    IFS=. read -ra octets <<<"$1"
    printf '02:00:%02x:%02x:%02x:%02x\n' "${octets[@]}"
}

network_exists() { [[ -e /run/netns/$1 ]] && ip -n "$1" link show lo >/dev/null 2>&1; }

# Runs a command in a namespace. `ip netns exec` would mount a new /sys, which hides the cgroups.
network_exec() {
    local network=$1
    shift
    nsenter --net="/run/netns/$network" "$@"
}

network_control_up() {
    if ! network_exists "$CONTROL_NETWORK"; then
        network_remove "$CONTROL_NETWORK"
        ip netns add "$CONTROL_NETWORK"
    fi
    if ! ip -n "$CONTROL_NETWORK" link show br0 >/dev/null 2>&1; then
        ip -n "$CONTROL_NETWORK" link add br0 address "$(network_hardware_address "$CONTROL_ADDRESS")" type bridge
    fi
    ip -n "$CONTROL_NETWORK" link set lo up
    ip -n "$CONTROL_NETWORK" address replace "$CONTROL_ADDRESS/$CONTROL_PREFIX" dev br0
    ip -n "$CONTROL_NETWORK" link set br0 up
    network_routes "$CONTROL_NETWORK" none
}

# A booting node gets a new namespace: no rule, connection or pod of its former life is left in it.
network_node_create() {
    local number=$1 network link
    network=$(node_network "$number")
    link=$(network_link "$number")
    network_node_remove "$number"
    ip netns add "$network"
    ip -n "$CONTROL_NETWORK" link add "$link" type veth \
        peer name eth0 netns "$network" address "$(network_hardware_address "$(node_address "$number")")"
    ip -n "$CONTROL_NETWORK" link set "$link" master br0 up
    ip -n "$network" link set lo up
    ip -n "$network" address add "$(node_address "$number")/$CONTROL_PREFIX" dev eth0
    ip -n "$network" link set eth0 up
    network_routes "$network" "$number"
    # shellcheck disable=SC2016  # Expanded by the inner shell; sysctl may not be installed.
    network_exec "$network" bash -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

# Routes to the pods of every node but one.
network_routes() {
    local network=$1 except=$2 number
    for number in "${CLUSTER_NODES[@]}"; do
        [[ $number != "$except" ]] || continue
        ip -n "$network" route replace "$(node_pod_cidr "$number")" via "$(node_address "$number")"
    done
}

network_node_cut() { ip -n "$CONTROL_NETWORK" link set "$(network_link "$1")" down 2>/dev/null || true; }
network_node_join() { ip -n "$CONTROL_NETWORK" link set "$(network_link "$1")" up; }

network_node_remove() {
    # A namespace is destroyed some time after its removal, a link at once; its name is needed again at once.
    ip -n "$CONTROL_NETWORK" link delete "$(network_link "$1")" 2>/dev/null || true
    network_remove "$(node_network "$1")"
}

# A process that was started with `enter` keeps the namespace, without a name, until it ends. It is not ours to end.
network_control_remove() {
    local pids
    pids=$(ip netns pids "$CONTROL_NETWORK" 2>/dev/null | tr '\n' ' ') || true
    [[ -z $pids ]] || say "still in the control network, not started by the cluster: $pids"
    network_remove "$CONTROL_NETWORK"
}

network_remove() {
    ip netns delete "$1" 2>/dev/null || rm -f "/run/netns/$1"
}
