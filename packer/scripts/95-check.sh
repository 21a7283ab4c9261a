#!/usr/bin/env bash
# The last look: everything that a boot needs is in the image, and none of it has to be fetched.
#
# ONEKE_FLAVOR  ce or ee (default: RKE2, helm, charts and images come another way and are not looked for)
# ONEKE_KERNEL  no: the image is started with a kernel from outside, so its modules are not looked for
#               (default: yes)
set -euo pipefail

arguments=()
if [[ -n ${ONEKE_FLAVOR-} ]]; then
    arguments+=(--flavor "$ONEKE_FLAVOR")
else
    arguments+=(--without-artifacts)
fi
if [[ ${ONEKE_KERNEL-} == no ]]; then
    arguments+=(--without-kernel)
fi
/usr/local/bin/oneke-agent check image "${arguments[@]}"
