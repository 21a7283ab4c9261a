#!/bin/bash
# Installs the boot loader. It is the first process of a machine that boots the disk with kernel and initial file
# system from outside, for a machine that runs in a container may not look at partitions. It goes when it is done.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

install_loader() (
    set -euo pipefail
    mountpoint --quiet /run || mount -t tmpfs -o mode=0755 tmpfs /run
    mount /boot/efi
    # The package does nothing without it; whoever makes a cloud image says so by this file.
    : > /etc/grub.d/enable_cloud
    /var/lib/dpkg/info/grub-cloud-amd64.postinst configure ''
    umount /boot/efi
    # As the package would have it where that can be replaced.
    ln -sfn ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
    rm /loader.sh
)

# Not within a condition: there, bash goes on after what fails.
install_loader
status=$?
sync
mount -o remount,ro /
echo "loader.sh: status $status"
poweroff --force --force
