#!/usr/bin/env bash
# Keeps the contextualization package from reporting READY=YES by itself: it would do so as soon as the
# network is up, long before this node serves anything. The agent reports when the node really is ready.
set -euo pipefail

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
