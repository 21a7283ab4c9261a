#!/usr/bin/env bash
# Refuses what would end a build only after its packages are in, all of it at once. Packer runs it when the VM has
# booted; by itself it can be run before.
#
#   preflight.sh FLAVOR ARCH CONTEXT_URL CONTEXT_SHA256 [OVERLAY]
#
# OVERLAY      folder that is laid over the image: a lock in it wins there
# ONEKE_AGENT  the program that judges the lock (default: that of the project's virtual environment)
set -euo pipefail

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly PROJECT FLAVOR=${1:?expected ce or ee} ARCH=${2:?expected amd64 or arm64} URL=${3-} SHA256=${4-} OVERLAY=${5-}
readonly AGENT=${ONEKE_AGENT:-$PROJECT/.venv/bin/oneke-agent}

status=0
refuse() {
    echo "preflight: $*" >&2
    status=1
}

if [[ -n $URL && -z $SHA256 ]]; then
    refuse "context_sha256 is empty: give it what \`curl -fsSL $URL | sha256sum\` prints, compared with what its" \
        "makers publish"
fi

lock=$OVERLAY/etc/oneke/service.d/artifacts.lock.yaml
if [[ -z $OVERLAY || ! -e $lock ]]; then
    # The one that the wheel will carry.
    lock=$PROJECT/service.d/artifacts.lock.yaml
fi
# Looks at the lock, and asks nobody.
if [[ ! -x $AGENT ]]; then
    refuse "$AGENT is not there to judge the lock: python3 -m venv .venv && .venv/bin/pip install -e ."
elif ! "$AGENT" install --dry-run --flavor "$FLAVOR" --arch "$ARCH" \
    --lock-file "$lock" > /dev/null; then
    refuse "the lock does not do for $FLAVOR on $ARCH (above)"
fi

exit "$status"
