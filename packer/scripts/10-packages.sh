#!/usr/bin/env bash
# Installs the packages a OneKE node needs, whatever role it will have.
# Runs in a chroot or in a booted VM; no service is started by the installation in either.
set -euo pipefail

readonly POLICY=/usr/sbin/policy-rc.d
readonly POLICY_MARK='oneke: no service starts while packages are installed'

packages=(
    # the system itself
    systemd systemd-sysv systemd-timesyncd libpam-systemd dbus udev kmod procps less
    # network and its daemons
    iproute2 iputils-ping keepalived haproxy nftables conntrack unbound dns-root-data
    # disks, and what Longhorn expects of a node
    util-linux xfsprogs e2fsprogs open-iscsi nfs-common
    # the agent, and the people who log in
    python3 python3-venv openssh-server curl socat ca-certificates
)

allow_services() {
    if grep -qsF "$POLICY_MARK" "$POLICY"; then
        rm -f "$POLICY"
    fi
}

if [[ ! -e $POLICY ]]; then
    printf '#!/bin/sh\n# %s\nexit 101\n' "$POLICY_MARK" > "$POLICY"
    chmod 0755 "$POLICY"
fi
trap allow_services EXIT

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends "${packages[@]}"
