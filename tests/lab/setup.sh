#!/usr/bin/env bash
# Installs what the lab and the checks need on a Debian 12 or Ubuntu 24.04 machine. Run as root.
# Nothing is done, and nothing said, where all of it is there already.
set -euo pipefail

readonly POLICY=/usr/sbin/policy-rc.d
readonly POLICY_MARK='oneke lab: no service starts while packages are installed'

# package and a file that it brings; HAProxy and keepalived only judge configurations here
needed=(
    ca-certificates=/usr/sbin/update-ca-certificates
    curl=/usr/bin/curl
    debootstrap=/usr/sbin/debootstrap
    docker-registry=/usr/bin/docker-registry
    e2fsprogs=/sbin/mkfs.ext4
    genisoimage=/usr/bin/genisoimage
    haproxy=/usr/sbin/haproxy
    iproute2=/sbin/ip
    keepalived=/usr/sbin/keepalived
    lintian=/usr/bin/lintian
    nftables=/usr/sbin/nft
    openssl=/usr/bin/openssl
    procps=/usr/bin/pgrep
    python3-pip-whl=/usr/share/python-wheels
    qemu-system-x86=/usr/bin/qemu-system-x86_64
    qemu-utils=/usr/bin/qemu-img
    shellcheck=/usr/bin/shellcheck
    skopeo=/usr/bin/skopeo
    socat=/usr/bin/socat
    systemd-container=/usr/bin/systemd-nspawn
    unbound=/usr/sbin/unbound-checkconf
    util-linux=/usr/bin/unshare
    xfsprogs=/sbin/mkfs.xfs
)
# Taken where the distribution has it: Debian 12 does, later releases do not.
optional=(packer)

is_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

allow_services() {
    if grep -qsF "$POLICY_MARK" "$POLICY"; then
        rm -f "$POLICY"
    fi
}

add_optional() {
    for package in "${optional[@]}"; do
        if ! is_installed "$package" && apt-cache show "$package" > /dev/null 2>&1; then
            missing+=("$package")
        fi
    done
}

missing=()
# The distribution splits off what makes environments; other builds of Python have it.
python3 -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv)
for entry in "${needed[@]}"; do
    package=${entry%%=*}
    # A tool that came another way is as good as the package.
    if [[ ! -e ${entry#*=} ]] && ! is_installed "$package"; then
        missing+=("$package")
    fi
done
add_optional
if [[ ${#missing[@]} -eq 0 ]]; then
    exit 0
fi

if [[ $EUID -ne 0 ]]; then
    echo "setup.sh: run as root; missing: ${missing[*]}" >&2
    exit 1
fi
if ! command -v apt-get > /dev/null; then
    echo "setup.sh: only Debian and Ubuntu are supported; missing: ${missing[*]}" >&2
    exit 1
fi

# Fresh packages of daemons would start them, and a haproxy of the machine is nobody's wish.
daemons=()
for package in docker-registry haproxy keepalived unbound; do
    is_installed "$package" || daemons+=("$package.service")
done
if [[ ! -e $POLICY ]]; then
    printf '#!/bin/sh\n# %s\nexit 101\n' "$POLICY_MARK" > "$POLICY"
    chmod 0755 "$POLICY"
fi
trap allow_services EXIT

echo "setup.sh: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# On a fresh machine nothing was known of them before.
add_optional
apt-get -qq install --yes --no-install-recommends "${missing[@]}" > /dev/null
for unit in "${daemons[@]}"; do
    systemctl --quiet disable "$unit" 2> /dev/null || true
done
