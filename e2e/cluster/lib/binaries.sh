# shellcheck shell=bash
#
# Builds the cluster's programs from pinned sources into the cache.
#
# One part per folder of binaries/. A part is cached under the hash of that folder, so changing a lock file builds a new
# one and leaves the old one to those who still use it. A part is built aside and renamed: it is whole or absent.

BINARIES_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../binaries" && pwd)
# Small parts first, so that a missing tool shows before the minutes of Kubernetes.
BINARIES_PARTS=(pause kafka coredns versitygw helm kubernetes)

# The folder of a part in the cache, built or not.
binaries_dir() {
    local part=$1 hash
    hash=$(cd "$BINARIES_SOURCE/$part" && sha256sum -- * | sha256sum | cut -c1-16)
    echo "$CACHE_DIR/$part-$hash"
}

binaries_missing() {
    local part
    for part in "${BINARIES_PARTS[@]}"; do
        [[ -d $(binaries_dir "$part") ]] || echo "$part"
    done
}

# Builds one part if it is missing.
binaries_build() (
    set -euo pipefail # A subshell that is called in a condition would not inherit it.
    part=$1
    target=$(binaries_dir "$part")
    mkdir -p "$CACHE_DIR"
    exec 8>"$CACHE_DIR/$part.lock"
    flock 8 # Another cluster's `up` may be building the same part.
    [[ ! -d $target ]] || exit 0
    started=$SECONDS
    say "building $part"
    work=$(mktemp -d "$CACHE_DIR/.$part.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    "binaries_build_$part" "$BINARIES_SOURCE/$part" "$work"
    mv "$work" "$target"
    trap - EXIT
    minutes=$(((SECONDS - started) / 60)) seconds=$(((SECONDS - started) % 60))
    say "built $part in $minutes min $seconds s, $(du -sh "$target" | cut -f1)"
)

binaries_build_kubernetes() {
    local source=$1 target=$2 version component
    version=$(cd "$source" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
    local package=k8s.io/component-base/version
    # Clients and the kubelet compare these; without them every component calls itself v0.0.0-master.
    binaries_go "$source" "$target/kubernetes" . \
        "-X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$version")"
    for component in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
        ln -s kubernetes "$target/$component"
    done
}

binaries_build_coredns() {
    binaries_go "$1" "$2/coredns" . ""
}

binaries_build_helm() {
    local version
    version=$(cd "$1" && go list -m -f '{{.Version}}' helm.sh/helm/v3)
    binaries_go "$1" "$2/helm" helm.sh/helm/v3/cmd/helm "-X helm.sh/helm/v3/internal/version.version=$version"
}

binaries_build_versitygw() {
    local version
    version=$(cd "$1" && go list -m -f '{{.Version}}' github.com/versity/versitygw)
    binaries_go "$1" "$2/versitygw" github.com/versity/versitygw/cmd/versitygw "-X main.Version=$version"
}

binaries_build_kafka() {
    # Maven writes beside the pom; the checkout stays clean if the pom is a copy.
    mkdir "$2/build"
    cp "$1/pom.xml" "$2/build/"
    mvn --batch-mode --quiet -Dstyle.color=never --file "$2/build/pom.xml" package
    mv "$2/build/target/jars" "$2/jars"
    rm -rf "$2/build"
}

binaries_build_pause() {
    gcc -static -Os -s -o "$2/pause" "$1/pause.c"
}

# Static, stripped and without paths of this machine: the same lock files give the same program everywhere.
binaries_go() {
    local source=$1 output=$2 package=$3 flags=$4
    (cd "$source" && CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w $flags" -o "$output" "$package")
}
