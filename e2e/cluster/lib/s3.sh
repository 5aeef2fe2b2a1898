# shellcheck shell=bash
#
# The S3 server over a folder, in the control namespace.

s3_start() {
    local directory=$CLUSTER_DIR/s3
    # A folder is a bucket.
    mkdir -p "$directory/$S3_BUCKET"
    ROOT_ACCESS_KEY=$S3_ACCESS_KEY ROOT_SECRET_KEY=$S3_SECRET_KEY \
        process_start s3 nsenter --net="/run/netns/$CONTROL_NETWORK" \
        "$(binaries_dir versitygw)/versitygw" --port "$CONTROL_ADDRESS:$S3_PORT" --health /health --quiet posix "$directory"
}

s3_wait() {
    wait_for S3 30 network_exec "$CONTROL_NETWORK" bash -c ": </dev/tcp/$CONTROL_ADDRESS/$S3_PORT"
}
