#!/usr/bin/env bash
# Prepares what a build hands to its VM of this machine's files, and refuses what is not there.
#
#   handover.sh FOLDER OVERLAY NETRC REGISTRY_AUTH
#
# FOLDER                where it is put: overlay.tar, and an empty file in place of what is not given
# OVERLAY               folder to lay over the image, or empty
# NETRC, REGISTRY_AUTH  files with credentials, or empty; they are only looked for, nothing is copied
set -euo pipefail

readonly FOLDER=${1:?expected a folder} OVERLAY=${2-} NETRC=${3-} REGISTRY_AUTH=${4-}

status=0
refuse() {
    echo "handover: $*" >&2
    status=1
}

if [[ -n $OVERLAY && ! -d $OVERLAY ]]; then
    refuse "overlay: $OVERLAY is no folder"
fi
for file in "$NETRC" "$REGISTRY_AUTH"; do
    if [[ -n $file && ! -f $file ]]; then
        refuse "$file: there is no such file of credentials"
    fi
done
[[ $status -eq 0 ]] || exit "$status"

mkdir -p "$FOLDER"
: > "$FOLDER/nothing"
what=(--files-from /dev/null)
if [[ -n $OVERLAY ]]; then
    what=(--directory "$OVERLAY" .)
fi
# Whoever owns it here has no name there.
tar --create --sort=name --owner=0 --group=0 --numeric-owner --file "$FOLDER/overlay.tar" "${what[@]}"
