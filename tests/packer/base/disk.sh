#!/usr/bin/env bash
# Makes a disk of stacked layers, with the partitions of Debian's cloud images and without a boot loader, and lays
# kernel and initial file system beside it. To be called in a mount namespace of its own, which takes the mounts away.
#
#   disk.sh LOWER ROOT SIZE OUT
#
# LOWER  lowerdir of the overlay, topmost layer first, colon between
# ROOT   empty folder to mount them at
# SIZE   of the disk in MiB
# OUT    folder that gets disk.raw, vmlinuz and initrd.img
set -euo pipefail

readonly LOWER=$1 ROOT=$2 SIZE=$3 OUT=$4
# Where partitions begin, in sectors of 512 bytes; the last one goes to the end.
readonly BIOS=2048 EFI=8192 SYSTEM=262144

uuid_of() {
    awk -v place="$1" '$2 == place { sub("UUID=", "", $1); print $1 }' "$ROOT/etc/fstab"
}

mount -t overlay -o "ro,lowerdir=$LOWER" overlay "$ROOT"
truncate --size "${SIZE}M" "$OUT/disk.raw"

# By the tools of the layers: this machine need not have them.
mount --bind "$OUT" "$ROOT/mnt"
chroot "$ROOT" sfdisk --quiet /mnt/disk.raw <<LAYOUT
label: gpt
unit: sectors
p14: start=$BIOS, size=$((EFI - BIOS)), type=21686148-6449-6E6F-744E-656564454649
p15: start=$EFI, size=$((SYSTEM - EFI)), type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
p1: start=$SYSTEM, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
LAYOUT
efi=$(uuid_of /boot/efi)
chroot "$ROOT" mkfs.vfat -F 16 -i "${efi/-/}" -h "$EFI" --offset "$EFI" /mnt/disk.raw $(((SYSTEM - EFI) / 2)) > /dev/null
umount "$ROOT/mnt"

# The second table of partitions is in the last MiB.
mkfs.ext4 -q -F -U "$(uuid_of /)" -E "offset=$((SYSTEM * 512))" -d "$ROOT" "$OUT/disk.raw" \
    $((SIZE - SYSTEM / 2048 - 1))M
cp "$ROOT"/boot/vmlinuz-* "$OUT/vmlinuz"
cp "$ROOT"/boot/initrd.img-* "$OUT/initrd.img"
