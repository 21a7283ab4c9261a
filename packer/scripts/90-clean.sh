#!/usr/bin/env bash
# Removes what must not be the same on every VM of the image, and what only the build needed.
set -euo pipefail

shopt -s nullglob dotglob

# Both: with an empty /etc/machine-id and a full dbus one, every VM would take over the latter. An empty file,
# unlike a missing one, is no "first boot", at which systemd would apply presets to all units.
: > /etc/machine-id
rm -f /var/lib/dbus/machine-id
# A name in this file beats the one the machine is given from outside.
: > /etc/hostname

# oneke-ssh-host-keys.service makes new ones at boot.
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
# The package made one name, which targets tell initiators apart by; each VM makes its own with its first volume.
# Source: startup-checks.sh of the package open-iscsi.
if [[ -e /etc/iscsi/initiatorname.iscsi ]]; then
    printf 'GenerateName=yes\n' > /etc/iscsi/initiatorname.iscsi
    chmod 0600 /etc/iscsi/initiatorname.iscsi
fi

# How the build came in, and what cloud-init left: its settings of NICs would compete with the context's.
rm -f /etc/ssh/sshd_config.d/00-oneke-build.conf /etc/ssh/sshd_config.d/*cloud-init.conf
rm -rf /root/.ssh/authorized_keys
rm -rf /etc/cloud /var/lib/cloud /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init
rm -rf /var/lib/dhcp/*
rm -f /etc/udev/rules.d/70-persistent-*.rules

apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
# Manuals of the packages that were there before 10-packages.sh kept them out; licences stay.
find /usr/share/doc -mindepth 1 -not -type d -not -name copyright -delete
find /usr/share/doc -mindepth 1 -type d -empty -delete
rm -rf /usr/share/man/* /usr/share/info/* /usr/share/lintian/*
# A running system would write both anew when it ends.
if [[ -d /run/systemd/system ]]; then
    journalctl --relinquish-var
    systemctl stop systemd-random-seed.service
fi
rm -rf /root/.bash_history /root/.cache /root/.wget-hsts
find /var/log -type f -not -path '/var/log/journal/*' -delete
rm -rf /var/log/journal/*
rm -rf /var/tmp/* /tmp/oneke-*
rm -rf /var/lib/systemd/random-seed

if [[ -e /usr/sbin/policy-rc.d ]]; then
    echo "90-clean: removing the guard /usr/sbin/policy-rc.d left by the build" >&2
    rm -f /usr/sbin/policy-rc.d
fi

# In a VM the disk learns which blocks are free, so that its image shrinks; in a chroot there is no disk.
if [[ -d /run/systemd/system ]]; then
    fstrim --all --quiet-unsupported || echo "90-clean: the disk does not take notice of free blocks" >&2
fi
