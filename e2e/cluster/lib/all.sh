# shellcheck shell=bash
#
# Reads every other file, in the order in which they use each other's values.

CLUSTER_LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for noun in cluster processes prerequisites binaries network cgroups pki controlplane images node kafka s3 dns; do
    # shellcheck source=/dev/null
    source "$CLUSTER_LIB/$noun.sh"
done
unset noun
