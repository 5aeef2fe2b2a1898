# shellcheck shell=bash
#
# The cluster's DNS, and the names of what is beside it: kafka.infra.svc and s3.infra.svc.
#
# CoreDNS, Kafka and S3 are processes in the control namespace. A Service without selector and a hand-written
# EndpointSlice give each of them a name and a cluster address.

dns_start() {
    # Every address of the namespace, there is nobody else in it. Other names do not exist, because there is no outside to
    # ask; without the template they would be refused, which clients take for a broken server.
    cat >"$CLUSTER_DIR/Corefile" <<END
.:53 {
    errors
    ready 127.0.0.1:8181
    cache 5
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig $PKI_DIR/dns.kubeconfig
        ttl 5
    }
    template ANY ANY . {
        rcode NXDOMAIN
    }
}
END
    process_start coredns nsenter --net="/run/netns/$CONTROL_NETWORK" "$(binaries_dir coredns)/coredns" -conf "$CLUSTER_DIR/Corefile"
}

dns_wait() {
    wait_for DNS 30 network_exec "$CONTROL_NETWORK" bash -c \
        'exec 3<>/dev/tcp/127.0.0.1/8181 && printf "GET /ready HTTP/1.0\r\n\r\n" >&3 && grep -q "200 OK" <&3'
}

dns_publish() {
    {
        dns_role
        dns_service kube-system kube-dns "$DNS_SERVICE_ADDRESS" dns/UDP/53 dns-tcp/TCP/53
        printf -- '---\napiVersion: v1\nkind: Namespace\nmetadata: { name: infra }\n'
        dns_service infra kafka "" "kafka/TCP/$KAFKA_PORT"
        dns_service infra s3 "" "s3/TCP/$S3_PORT"
    } | kubectl_admin apply --server-side --field-manager=millrace-cluster -f - >"$CLUSTER_DIR/log/publish.log" 2>&1
}

# A Service and its EndpointSlice to the bridge address: namespace, name, cluster address or nothing, name/protocol/port…
dns_service() {
    local namespace=$1 name=$2 address=$3 port ports=
    shift 3
    for port in "$@"; do
        IFS=/ read -r port_name protocol number <<<"$port"
        ports+=$'\n'"  - { name: $port_name, protocol: $protocol, port: $number }"
    done
    cat <<END
---
apiVersion: v1
kind: Service
metadata: { namespace: $namespace, name: $name }
spec:
  ${address:+clusterIP: $address}
  ports:${ports//$'\n'/$'\n'  }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: $namespace
  name: $name
  labels: { kubernetes.io/service-name: $name, endpointslice.kubernetes.io/managed-by: millrace-cluster }
addressType: IPv4
endpoints:
  - addresses: [$CONTROL_ADDRESS]
    conditions: { ready: true }
ports:$ports
END
}

dns_role() {
    cat <<'END'
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: system:coredns }
rules:
  - apiGroups: [""]
    resources: [services, pods, namespaces]
    verbs: [list, watch]
  - apiGroups: [discovery.k8s.io]
    resources: [endpointslices]
    verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: system:coredns }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns }
subjects:
  - { apiGroup: rbac.authorization.k8s.io, kind: User, name: system:coredns }
END
}
