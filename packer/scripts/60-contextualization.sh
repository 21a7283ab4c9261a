#!/usr/bin/env bash
# Installs OpenNebula's contextualization package, and keeps it from reporting READY=YES by itself: it would do
# so as soon as the network is up, long before this node serves anything. The agent reports when the node
# really is ready.
#
# ONEKE_CONTEXT_URL     where the package is (default: none is installed, it is there or comes later)
# ONEKE_CONTEXT_SHA256  its digest; there is no default, and without it the package is refused
# NETRC                 file with credentials for where it is (default: none)
set -euo pipefail

is_installed() {
    dpkg-query --show --showformat='${db:Status-Status}' one-context 2>/dev/null | grep -qx installed
}

install_package() {
    if [[ -z ${ONEKE_CONTEXT_SHA256-} ]]; then
        echo "60-contextualization: ONEKE_CONTEXT_SHA256 is empty; its value for $ONEKE_CONTEXT_URL is what" \
            "\`curl -fsSL $ONEKE_CONTEXT_URL | sha256sum\` prints, compared with what its makers publish" >&2
        exit 1
    fi
    local folder found
    folder=$(mktemp -d)
    # apt reads it as a user of its own.
    chmod 0755 "$folder"
    curl --fail --silent --show-error --location --retry 3 ${NETRC:+--netrc-file "$NETRC"} \
        --output "$folder/one-context.deb" "$ONEKE_CONTEXT_URL"
    found=$(sha256sum "$folder/one-context.deb")
    if [[ ${found%% *} != "$ONEKE_CONTEXT_SHA256" ]]; then
        echo "60-contextualization: $ONEKE_CONTEXT_URL: expected sha256 $ONEKE_CONTEXT_SHA256," \
            "found ${found%% *}" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --yes --no-install-recommends "$folder/one-context.deb"
    rm -rf "$folder"
}

if [[ -n ${ONEKE_CONTEXT_URL-} ]] && ! is_installed; then
    install_package
fi

# Also settings without their package. Names that others only speak of are known, too, and nothing is there of them.
find_leftovers() {
    dpkg-query --show --showformat='${Package} ${db:Status-Status}\n' 'cloud-init*' 2>/dev/null \
        | awk '$2 != "not-installed" { print $1 }'
}

# The package takes the place of cloud-init, and says so in its own dependencies; what that leaves behind would go
# on setting NICs.
if is_installed; then
    mapfile -t leftovers < <(find_leftovers)
    if [[ ${#leftovers[@]} -gt 0 ]]; then
        DEBIAN_FRONTEND=noninteractive apt-get -qq purge --yes "${leftovers[@]}"
    fi
fi

readonly SCRIPTS=/etc/one-context.d
# Outside the scripts folder: everything in it is executed, under whatever name.
readonly DIVERTED=/usr/lib/oneke/one-context.diverted

shopt -s nullglob
found=0
for script in "$SCRIPTS"/*report-ready* "$SCRIPTS"/*report_ready*; do
    found=1
    install -d -m 0755 "$DIVERTED"
    # A diversion also holds when the package is upgraded later.
    dpkg-divert --quiet --local --rename --divert "$DIVERTED/${script##*/}" --add "$script"
    if [[ -e $script ]]; then
        # Diverted before, then put back by other means than the package manager.
        mv -f "$script" "$DIVERTED/${script##*/}"
    fi
    chmod 0644 "$DIVERTED/${script##*/}"
    echo "60-contextualization: diverted $script to $DIVERTED/${script##*/}"
done

if [[ $found -eq 0 ]]; then
    diverted=("$DIVERTED"/*)
    if [[ ${#diverted[@]} -gt 0 ]]; then
        echo "60-contextualization: already diverted: ${diverted[*]}"
    else
        # Divert the usual name all the same, so that a package installed later is caught too.
        install -d -m 0755 "$DIVERTED"
        dpkg-divert --quiet --local --rename --divert "$DIVERTED/net-99-report-ready" \
            --add "$SCRIPTS/net-99-report-ready"
        echo "60-contextualization: no *report-ready* script in $SCRIPTS; its name is diverted for later"
    fi
fi
