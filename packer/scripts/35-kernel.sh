#!/usr/bin/env bash
# What the kernel loads at boot, and how it is started. In a chroot without a boot loader only the former.
set -euo pipefail

# All four roles: the bridge filter and overlay for the containers, connection tracking for the gateways'
# NAT and the forwarding table, iSCSI and encryption for Longhorn's volumes.
cat > /etc/modules-load.d/oneke.conf <<'MODULES'
overlay
br_netfilter
nf_conntrack
iscsi_tcp
dm_crypt
MODULES
chmod 0644 /etc/modules-load.d/oneke.conf

if ! command -v update-grub > /dev/null; then
    exit 0
fi

# The last console is /dev/console, where the agent says what it does; OpenNebula shows the screen, not the
# serial line. NICs are eth0, eth1, ... as OpenNebula's templates count them.
serial=ttyS0,115200n8
# Emulated on a busy host, ticks come late, and at that test of a PC's timer the kernel would give up. With
# acceleration it leaves the test out by itself.
timer=no_timer_check
if [[ $(dpkg --print-architecture) == arm64 ]]; then
    serial=ttyAMA0
    timer=
fi
readonly SETTINGS=/etc/default/grub.d/90-oneke.cfg
# Written down before, and removed after: an update that was cut or failed is made by the next run.
readonly PENDING=${SETTINGS%.cfg}.pending
fresh=$(
    cat <<GRUB
GRUB_CMDLINE_LINUX="${timer:+$timer }net.ifnames=0 biosdevname=0"
GRUB_CMDLINE_LINUX_DEFAULT="console=$serial console=tty0"
GRUB_TIMEOUT=1
GRUB
)
if [[ -e $PENDING || $(cat "$SETTINGS" 2>/dev/null) != "$fresh" ]]; then
    install -d -m 0755 "${SETTINGS%/*}"
    : > "$PENDING"
    printf '%s\n' "$fresh" > "$SETTINGS"
    chmod 0644 "$SETTINGS"
    update-grub
    rm "$PENDING"
fi
