#!/usr/bin/env bash
# Gives the root it runs in what makes it a machine of its own: the distribution's kernel for virtual machines,
# and the guest agent that the tests look through.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# First, so that the kernel's own installation already makes the small image: what else it could load at boot,
# software emulation takes half a minute to read.
apt-get -qq install --yes --no-install-recommends initramfs-tools > /dev/null
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=gzip/' /etc/initramfs-tools/initramfs.conf
# Disc and NICs have to be there as early as with a full image: the contextualization package waits for neither.
printf '%s\n' virtio_pci virtio_blk virtio_net ext4 ata_piix sr_mod isofs > /etc/initramfs-tools/modules
apt-get -qq install --yes --no-install-recommends "linux-image-cloud-$(dpkg --print-architecture)" \
    qemu-guest-agent > /dev/null

# It would note every question of the tests in the journal.
install -d -m 0755 /etc/systemd/system/qemu-guest-agent.service.d
printf '[Service]\nLogLevelMax=notice\n' > /etc/systemd/system/qemu-guest-agent.service.d/10-quiet.conf

# The firmware is left out: the machine is given kernel and initial file system from outside.
ln -sfnT "$(basename /boot/vmlinuz-*)" /boot/vmlinuz
ln -sfnT "$(basename /boot/initrd.img-*)" /boot/initrd.img
# A server in a rack has a terminal there, too, and the log of the boot is read from it.
systemctl --quiet enable serial-getty@ttyS0.service
