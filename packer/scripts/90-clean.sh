#!/usr/bin/env bash
# Removes what must not be the same on every VM of the image, and what only the build needed.
set -euo pipefail

shopt -s nullglob dotglob

# Both: with an empty /etc/machine-id and a full dbus one, every VM would take over the latter.
: > /etc/machine-id
rm -f /var/lib/dbus/machine-id
# A name in this file beats the one the machine is given from outside.
: > /etc/hostname

# oneke-ssh-host-keys.service makes new ones at boot.
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub

apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -f /root/.bash_history
find /var/log -type f -not -path '/var/log/journal/*' -delete
rm -rf /var/log/journal/*
rm -rf /var/tmp/* /root/.cache
rm -rf /var/lib/systemd/random-seed

if [[ -e /usr/sbin/policy-rc.d ]]; then
    echo "90-clean: removing the guard /usr/sbin/policy-rc.d left by the build" >&2
    rm -f /usr/sbin/policy-rc.d
fi
