# shellcheck shell=bash
#
# Container images from scratch, without a registry: made here, kept with the cluster, imported into every node.
#
# An image holds programs, the shared libraries they need, certificates of the public authorities, and the user 65532.
# The tar is in Docker's archive format, which containerd reads: manifest.json, the configuration, one layer.

IMAGES_DIR=$CLUSTER_DIR/images
IMAGES_PAUSE=millrace.invalid/pause:1

# Makes the image NAME of programs; the first one is its entry point.
images_make() (
    set -euo pipefail
    name=$1
    shift
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    root=$work/root
    mkdir -p "$root"/{etc/ssl/certs,usr/bin} "$IMAGES_DIR"
    mkdir -m 1777 "$root/tmp"
    for program in "$@"; do
        install -m 755 "$program" "$root/usr/bin/"
        images_libraries "$program" | while read -r library; do
            install -D -m 755 "$library" "$root$library"
        done
    done
    printf 'root:x:0:0:root:/:\nnonroot:x:65532:65532:nonroot:/:\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
    # Names of the machine's hosts are none of the image's business, but the order "files, then DNS" is.
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    [[ ! -e /etc/ssl/certs/ca-certificates.crt ]] || install -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

    # The same programs give the same image: order, owners and times are fixed.
    images_tar "$root" "$work/layer.tar"
    layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
    cat >"$work/config" <<END
{
  "architecture": "$(images_architecture)",
  "os": "linux",
  "config": {
    "User": "65532:65532",
    "Env": ["PATH=/usr/bin"],
    "Entrypoint": ["/usr/bin/$(basename "$1")"],
    "WorkingDir": "/"
  },
  "rootfs": { "type": "layers", "diff_ids": ["sha256:$layer"] }
}
END
    config=$(sha256sum "$work/config" | cut -d' ' -f1).json
    mkdir "$work/image"
    mv "$work/layer.tar" "$work/image/$layer.tar"
    mv "$work/config" "$work/image/$config"
    echo "[{\"Config\":\"$config\",\"RepoTags\":[\"$name\"],\"Layers\":[\"$layer.tar\"]}]" >"$work/image/manifest.json"
    images_tar "$work/image" "$work/image.tar"
    file=$IMAGES_DIR/$(images_file "$name")
    mv "$work/image.tar" "$file.new"
    mv "$file.new" "$file"
)

# The shared libraries of a program with its loader, one path a line; none for a static program.
images_libraries() {
    local output
    output=$(ldd "$1" 2>/dev/null) || return 0
    if grep -q 'not found' <<<"$output"; then
        fail "$1 needs a library that this machine lacks: $(grep 'not found' <<<"$output" | head -1)"
    fi
    grep -oE '/[^ ]+' <<<"$output" | sort -u
}

images_tar() {
    tar --create --file="$2" --directory="$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner .
}

images_architecture() {
    case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) uname -m ;;
    esac
}

# The name of an image's file: names may contain slashes, files may not.
images_file() { echo "$(tr '/:' '__' <<<"$1").tar"; }

# Imports every image that the node does not have in its present form.
images_import_missing() {
    local number=$1 file mark
    mkdir -p "$(node_dir "$number")/imported"
    for file in "$IMAGES_DIR"/*.tar; do
        [[ -e $file ]] || continue
        mark=$(node_dir "$number")/imported/$(basename "$file")
        [[ $file -nt $mark ]] || continue
        touch -r "$file" "$mark.new"
        # Pods name images without a registry as "docker.io/library/…", and so does the import.
        node_exec "$number" ctr --namespace k8s.io images import - <"$file" >/dev/null ||
            fail "$(node_name "$number") does not accept the image $file"
        mv "$mark.new" "$mark"
    done
}

images_make_pause() {
    [[ -e $IMAGES_DIR/$(images_file "$IMAGES_PAUSE") ]] || images_make "$IMAGES_PAUSE" "$(binaries_dir pause)/pause"
}
