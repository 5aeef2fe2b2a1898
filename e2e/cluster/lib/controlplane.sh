# shellcheck shell=bash
#
# etcd, API server, controller manager and scheduler, in the control namespace.

controlplane_start() {
    local kubernetes
    kubernetes=$(binaries_dir kubernetes)

    # Without fsync a crash of the machine loses data; a kill of the process does not.
    process_start etcd nsenter --net="/run/netns/$CONTROL_NETWORK" "$kubernetes/etcd" \
        --name=control \
        --data-dir="$CLUSTER_DIR/etcd" \
        --unsafe-no-fsync \
        --listen-client-urls=http://127.0.0.1:2379 \
        --advertise-client-urls=http://127.0.0.1:2379 \
        --listen-peer-urls=http://127.0.0.1:2380 \
        --initial-advertise-peer-urls=http://127.0.0.1:2380 \
        --initial-cluster=control=http://127.0.0.1:2380 \
        --log-level=warn

    # The control namespace has no kube-proxy, so webhooks are called at the addresses of their pods: aggregator routing.
    process_start kube-apiserver nsenter --net="/run/netns/$CONTROL_NETWORK" "$kubernetes/kube-apiserver" \
        --etcd-servers=http://127.0.0.1:2379 \
        --advertise-address="$CONTROL_ADDRESS" \
        --secure-port="$API_PORT" \
        --service-cluster-ip-range="$SERVICE_CIDR" \
        --authorization-mode=Node,RBAC \
        --enable-admission-plugins=NodeRestriction \
        --enable-aggregator-routing=true \
        --allow-privileged=true \
        --client-ca-file="$PKI_DIR/ca.crt" \
        --tls-cert-file="$PKI_DIR/apiserver.crt" \
        --tls-private-key-file="$PKI_DIR/apiserver.key" \
        --kubelet-certificate-authority="$PKI_DIR/ca.crt" \
        --kubelet-client-certificate="$PKI_DIR/apiserver-kubelet-client.crt" \
        --kubelet-client-key="$PKI_DIR/apiserver-kubelet-client.key" \
        --kubelet-preferred-address-types=InternalIP \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file="$PKI_DIR/service-accounts.pub" \
        --service-account-signing-key-file="$PKI_DIR/service-accounts.key"

    # A lost node shows as NotReady after 12 s instead of 50 s. The kubelets' leases (10 s) fit into it.
    process_start kube-controller-manager nsenter --net="/run/netns/$CONTROL_NETWORK" "$kubernetes/kube-controller-manager" \
        --kubeconfig="$PKI_DIR/controller-manager.kubeconfig" \
        --bind-address=127.0.0.1 \
        --leader-elect=false \
        --use-service-account-credentials=true \
        --service-account-private-key-file="$PKI_DIR/service-accounts.key" \
        --root-ca-file="$PKI_DIR/ca.crt" \
        --cluster-signing-cert-file="$PKI_DIR/ca.crt" \
        --cluster-signing-key-file="$PKI_DIR/ca.key" \
        --node-monitor-period=2s \
        --node-monitor-grace-period=12s

    process_start kube-scheduler nsenter --net="/run/netns/$CONTROL_NETWORK" "$kubernetes/kube-scheduler" \
        --kubeconfig="$PKI_DIR/scheduler.kubeconfig" \
        --bind-address=127.0.0.1 \
        --leader-elect=false
}

controlplane_wait() {
    wait_for "API server" 60 kubectl_admin get --raw /readyz
}

kubectl_admin() {
    network_exec "$CONTROL_NETWORK" "$(binaries_dir kubernetes)/kubectl" --kubeconfig="$KUBECONFIG_ADMIN" "$@"
}
