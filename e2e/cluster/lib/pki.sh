# shellcheck shell=bash
#
# The cluster's certificates and kubeconfigs, made once per cluster. A file that exists is not made again.

PKI_DIR=$CLUSTER_DIR/pki

pki_up() {
    mkdir -p "$PKI_DIR"
    chmod 700 "$PKI_DIR"
    pki_authority
    pki_certificate apiserver /CN=kube-apiserver serverAuth \
        "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:$CONTROL_ADDRESS,IP:$KUBERNETES_SERVICE_ADDRESS"
    pki_certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
    pki_certificate admin /O=system:masters/CN=admin clientAuth
    pki_certificate controller-manager /CN=system:kube-controller-manager clientAuth
    pki_certificate scheduler /CN=system:kube-scheduler clientAuth
    pki_certificate proxy /CN=system:kube-proxy clientAuth
    pki_certificate dns /CN=system:coredns clientAuth
    [[ -e $PKI_DIR/service-accounts.key ]] || pki_key service-accounts
    [[ -e $PKI_DIR/service-accounts.pub ]] ||
        openssl pkey -in "$PKI_DIR/service-accounts.key" -pubout -out "$PKI_DIR/service-accounts.pub"
    local number name
    for number in "${CLUSTER_NODES[@]}"; do
        name=$(node_name "$number")
        pki_certificate "$name" "/O=system:nodes/CN=system:node:$name" serverAuth,clientAuth "DNS:$name,IP:$(node_address "$number")"
        pki_kubeconfig "$name" "$PKI_DIR/$name.kubeconfig"
    done
    for name in controller-manager scheduler proxy dns; do
        pki_kubeconfig "$name" "$PKI_DIR/$name.kubeconfig"
    done
    pki_kubeconfig admin "$KUBECONFIG_ADMIN"
}

pki_authority() {
    [[ ! -e $PKI_DIR/ca.crt ]] || return 0
    pki_key ca
    openssl req -x509 -new -key "$PKI_DIR/ca.key" -subj "/CN=$CLUSTER" -days 365 \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature \
        -out "$PKI_DIR/ca.crt.new"
    mv "$PKI_DIR/ca.crt.new" "$PKI_DIR/ca.crt"
}

pki_certificate() {
    local name=$1 subject=$2 usage=$3 names=${4:-}
    [[ ! -e $PKI_DIR/$name.crt ]] || return 0
    pki_key "$name"
    {
        echo "basicConstraints=critical,CA:FALSE"
        echo "keyUsage=critical,digitalSignature"
        echo "extendedKeyUsage=$usage"
        [[ -z $names ]] || echo "subjectAltName=$names"
    } >"$PKI_DIR/$name.extensions"
    openssl req -new -key "$PKI_DIR/$name.key" -subj "$subject" |
        openssl x509 -req -CA "$PKI_DIR/ca.crt" -CAkey "$PKI_DIR/ca.key" -set_serial "0x$(openssl rand -hex 16)" -days 365 \
            -extfile "$PKI_DIR/$name.extensions" -out "$PKI_DIR/$name.crt.new" 2>/dev/null
    mv "$PKI_DIR/$name.crt.new" "$PKI_DIR/$name.crt"
}

# Elliptic, because a dozen RSA keys would take longer than the start of the API server.
pki_key() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$PKI_DIR/$1.key"
}

pki_kubeconfig() {
    local name=$1 file=$2
    [[ ! -e $file ]] || return 0
    cat >"$file.new" <<END
apiVersion: v1
kind: Config
clusters:
  - name: $CLUSTER
    cluster:
      server: https://$CONTROL_ADDRESS:$API_PORT
      certificate-authority-data: $(base64 -w0 "$PKI_DIR/ca.crt")
users:
  - name: $name
    user:
      client-certificate-data: $(base64 -w0 "$PKI_DIR/$name.crt")
      client-key-data: $(base64 -w0 "$PKI_DIR/$name.key")
contexts:
  - name: $CLUSTER
    context:
      cluster: $CLUSTER
      user: $name
current-context: $CLUSTER
END
    chmod 600 "$file.new"
    mv "$file.new" "$file"
}
