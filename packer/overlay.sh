#!/usr/bin/env bash
# Lays files of whoever builds over the root, before anything else is done to it: certificates of an own authority,
# sources of packages, drop-ins of the agent. Run as root in the VM of the build; a second run changes nothing.
#
#   overlay.sh ARCHIVE
set -euo pipefail

readonly ARCHIVE=${1:?expected an archive}
readonly CERTIFICATES=usr/local/share/ca-certificates

members=$(tar --list --file "$ARCHIVE")
if [[ -z $members ]]; then
    exit 0
fi
# Folders that are there keep their modes, and stay links where they are links.
tar --extract --file "$ARCHIVE" --directory / --no-overwrite-dir --keep-directory-symlink
# Where the package is not there yet, its installation takes them in.
if grep -q "^\./$CERTIFICATES/." <<< "$members" && command -v update-ca-certificates > /dev/null; then
    update-ca-certificates
fi
