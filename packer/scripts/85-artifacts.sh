#!/usr/bin/env bash
# Fetches what a node needs of others, each by its pinned version and verified digest: RKE2, helm, charts and,
# for EE, the images of all add-ons. Needs network; what is there already is not fetched again.
#
# ONEKE_FLAVOR   ce (charts) or ee (all images too: nothing is pulled at boot)
#                (default: nothing is fetched; RKE2 and the charts come another way)
# ONEKE_SOURCES  mirrors, as PREFIX=URL with blanks between, as in `oneke-agent install --source`
set -euo pipefail

readonly FLAVOR=${ONEKE_FLAVOR-}

if [[ -z $FLAVOR ]]; then
    echo "85-artifacts: ONEKE_FLAVOR is empty: RKE2, helm and charts are left to others"
    exit 0
fi

arguments=(--flavor "$FLAVOR")
for source in ${ONEKE_SOURCES-}; do
    arguments+=(--source "$source")
done

# It copies images of a registry into archives, which no node ever does.
borrowed=()
if [[ $FLAVOR == ee ]] && ! command -v skopeo > /dev/null; then
    borrowed=(skopeo)
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --yes --no-install-recommends "${borrowed[@]}"
fi

/usr/local/bin/oneke-agent install "${arguments[@]}"

if [[ ${#borrowed[@]} -gt 0 ]]; then
    apt-get -qq purge --yes --autoremove "${borrowed[@]}"
fi
