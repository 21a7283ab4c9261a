#!/usr/bin/env bash
# Installs the packages a OneKE node needs, whatever role it will have.
# Runs in a chroot or in a booted VM; no service is started by the installation in either.
#
# 10-packages.sh --list  prints the packages and changes nothing
set -euo pipefail

readonly POLICY=/usr/sbin/policy-rc.d
readonly POLICY_MARK='oneke: no service starts while packages are installed'

packages=(
    # the system itself
    systemd systemd-sysv systemd-timesyncd libpam-systemd dbus udev kmod procps less
    # network and its daemons
    iproute2 iputils-ping keepalived haproxy nftables conntrack unbound dns-root-data
    # disks, and what Longhorn expects of a node
    util-linux xfsprogs e2fsprogs open-iscsi nfs-common cryptsetup-bin dmsetup
    # the agent, and the people who log in
    python3 python3-venv openssh-server curl socat ca-certificates
)
if [[ ${1-} == --list ]]; then
    printf '%s\n' "${packages[@]}"
    exit 0
fi

# Cloud images bring these. A node has no use for snaps, and is not to have its balancer or its iSCSI
# daemon replaced and restarted some night: it is upgraded drained, or replaced by a newer image.
unwanted=(snapd lxd-agent-loader lxd-installer unattended-upgrades)

allow_services() {
    if grep -qsF "$POLICY_MARK" "$POLICY"; then
        rm -f "$POLICY"
    fi
}

is_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

if [[ ! -e $POLICY ]]; then
    printf '#!/bin/sh\n# %s\nexit 101\n' "$POLICY_MARK" > "$POLICY"
    chmod 0755 "$POLICY"
fi
trap allow_services EXIT

# Nobody reads manuals on a node; what was there before is removed by 90-clean.sh. Licences stay.
install -d -m 0755 /etc/dpkg/dpkg.cfg.d
cat > /etc/dpkg/dpkg.cfg.d/oneke-no-documentation <<'DPKG'
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/lintian/*
DPKG

export DEBIAN_FRONTEND=noninteractive
remove=()
for package in "${unwanted[@]}"; do
    if is_installed "$package"; then
        remove+=("$package")
    fi
done
if [[ ${#remove[@]} -gt 0 ]]; then
    apt-get -qq purge --yes "${remove[@]}"
fi
apt-get -qq update
apt-get -qq install --yes --no-install-recommends "${packages[@]}"
