#!/usr/bin/env bash
# Makes the smallest Debian 12 what Debian's generic cloud image is, as far as a build of the image can notice: its
# kernel, its boot loader, cloud-init, the same services for networks and names, upgrades at night. Run in a chroot.
#
# Source: the recipes of Debian's cloud images (bookworm, classes CLOUD, SYSTEM_BOOT, EXTRAS and GRUB_CLOUD_AMD64).
set -euo pipefail

readonly BUILD=/run/oneke-build

packages=(
    # the system; a boot loader for both firmwares, and what grows the disk
    linux-image-amd64 zstd apparmor init libpam-systemd systemd-timesyncd polkitd
    grub-cloud-amd64 cloud-initramfs-growroot cloud-init cloud-guest-utils
    # networks, names, and who comes in
    netplan.io systemd-resolved libnss-myhostname iproute2 iputils-ping openssh-server sudo ca-certificates
    # what the scripts of the image take away
    unattended-upgrades man-db
    # what people expect
    bash-completion curl less nano socat vim-tiny
    # Not in Debian's: formats the partition that UEFI reads, once.
    dosfstools
)

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update

# Not as in Debian's: the initial file system holds what a machine of QEMU boots with. It is made anew twice during a
# build, and of all modules that takes software emulation a quarter of an hour each time.
apt-get -qq install --yes --no-install-recommends initramfs-tools > /dev/null
printf 'MODULES=list\nCOMPRESS=gzip\n' > /etc/initramfs-tools/conf.d/60-host
printf '%s\n' virtio_pci virtio_blk virtio_net ext4 ata_piix sr_mod isofs >> /etc/initramfs-tools/modules

apt-get -qq install --yes --no-install-recommends "${packages[@]}" > /dev/null
systemctl --quiet enable systemd-networkd.service systemd-resolved.service

# The package manager of the machine that this is made on may be told where archives are, and how to speak to them.
# cloud-init would replace the former.
cp "$BUILD/apt.conf" /etc/apt/apt.conf.d/60-host
printf 'apt_preserve_sources_list: true\n' > /etc/cloud/cloud.cfg.d/60-host.cfg

# Emulated on a busy host, ticks come too late for the kernel's test of a PC's timer.
install -d -m 0755 /etc/default/grub.d
printf 'GRUB_CMDLINE_LINUX_DEFAULT=no_timer_check\n' > /etc/default/grub.d/60-host.cfg

uuid=$(< /proc/sys/kernel/random/uuid)
cat > /etc/fstab <<FSTAB
UUID=$(< /proc/sys/kernel/random/uuid) / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1
UUID=$(tr '[:lower:]' '[:upper:]' <<< "${uuid:0:4}-${uuid:4:4}") /boot/efi vfat defaults 0 0
FSTAB
install -d -m 0755 /boot/efi
install -m 0755 "$BUILD/loader.sh" /loader.sh

apt-get clean
rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* /var/lib/dbus/machine-id
: > /etc/machine-id
: > /etc/hostname
