#!/usr/bin/env bash
# Makes a disk with the file system of stacked layers on it, and lays kernel and initial file system beside it.
# To be called in a mount namespace of its own, which takes the mount away again.
#
#   disk.sh LOWER ROOT SIZE OUT
#
# LOWER  lowerdir of the overlay, topmost layer first, colon between
# ROOT   empty folder to mount them at
# SIZE   of the disk, as mkfs.ext4 takes it
# OUT    folder that gets disk.img, vmlinuz and initrd.img
set -euo pipefail

readonly LOWER=$1 ROOT=$2 SIZE=$3 OUT=$4

mount -t overlay -o "ro,lowerdir=$LOWER" overlay "$ROOT"
cp --dereference "$ROOT/boot/vmlinuz" "$ROOT/boot/initrd.img" "$OUT/"
mkfs.ext4 -q -L rootfs -d "$ROOT" "$OUT/disk.img" "$SIZE"
