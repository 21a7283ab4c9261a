#!/usr/bin/env bash
# Fetches what a node needs of others, each by its pinned version and verified digest: RKE2, helm, charts and,
# for EE, the images of all add-ons. Needs network; what is there already is not fetched again. Links to RKE2's
# tools are made in any case.
#
# ONEKE_FLAVOR   ce (charts) or ee (all images too: nothing is pulled at boot)
#                (default: nothing is fetched; RKE2 and the charts come another way)
# ONEKE_SOURCES  mirrors, as PREFIX=URL with blanks between, as in `oneke-agent install --source`
set -euo pipefail

readonly FLAVOR=${ONEKE_FLAVOR-}
# What was not there before, written down before it comes: a run that was cut leaves it to the next one.
readonly BORROWED=/var/lib/oneke-borrowed-packages
export DEBIAN_FRONTEND=noninteractive

# Removes these and nothing else: others may have come without anybody asking for them by name.
give_back() {
    local name there=()
    [[ -e $BORROWED ]] || return 0
    while read -r name; do
        if dpkg-query --show "$name" > /dev/null 2>&1; then
            there+=("$name")
        fi
    done < <(sort --unique "$BORROWED")
    if [[ ${#there[@]} -gt 0 ]]; then
        apt-get -qq purge --yes "${there[@]}"
    fi
    rm -f "$BORROWED"
}
trap give_back EXIT

if [[ -z $FLAVOR ]]; then
    echo "85-artifacts: ONEKE_FLAVOR is empty: RKE2, helm and charts are left to others"
    /usr/local/bin/oneke-agent install --without-artifacts
    exit 0
fi

arguments=(--flavor "$FLAVOR")
for source in ${ONEKE_SOURCES-}; do
    arguments+=(--source "$source")
done

# skopeo copies images of a registry into archives, which no node ever does.
borrow_skopeo() {
    local coming
    apt-get -qq update
    # A line of what is new has no old version: Inst NAME (VERSION ...
    coming=$(apt-get --simulate install --no-install-recommends skopeo | awk '$1 == "Inst" && $3 !~ /^\[/ { print $2 }')
    printf '%s\n' "$coming" >> "$BORROWED"
    apt-get -qq install --yes --no-install-recommends skopeo
}

if [[ $FLAVOR == ee ]] && ! command -v skopeo > /dev/null; then
    borrow_skopeo
fi

/usr/local/bin/oneke-agent install "${arguments[@]}"
