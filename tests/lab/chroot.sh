#!/usr/bin/env bash
# One step of the bake: runs a script in a root of stacked layers and keeps what it changes.
#
#   chroot.sh LOWER UPPER WORK ROOT BUILD_DIR
#
# LOWER      lowerdir of the overlay, topmost layer first, colon between
# UPPER      empty folder that takes the changes; the new layer
# WORK ROOT  empty folders beside it
# BUILD_DIR  appears as /run/oneke-build in the root, with step.sh, which is run there
#
# To be called in mount and process namespaces of its own: it takes nothing down again.
set -euo pipefail

readonly LOWER=$1 UPPER=$2 WORK=$3 ROOT=$4 BUILD_DIR=$5

mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t sysfs -o ro sysfs "$ROOT/sys"
mount -t tmpfs -o mode=0755 tmpfs "$ROOT/dev"
for device in null zero full random urandom tty; do
    : > "$ROOT/dev/$device"
    mount --bind "/dev/$device" "$ROOT/dev/$device"
done
mkdir "$ROOT/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/dev/shm"
ln -s /proc/self/fd "$ROOT/dev/fd"
ln -s fd/0 "$ROOT/dev/stdin"
ln -s fd/1 "$ROOT/dev/stdout"
ln -s fd/2 "$ROOT/dev/stderr"
mount -t tmpfs -o mode=0755 tmpfs "$ROOT/run"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mkdir "$ROOT/run/oneke-build"
mount --bind "$BUILD_DIR" "$ROOT/run/oneke-build"
# The machine's resolver, for the package manager only: it must not end up in a layer.
mount --bind "$(readlink -f /etc/resolv.conf)" "$ROOT/etc/resolv.conf"

environment=(
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive
    APT_CONFIG=/run/oneke-build/apt.conf
    # Nodes run with the machine's kernel.
    ONEKE_KERNEL=no
)
for name in http_proxy https_proxy no_proxy; do
    [[ -z ${!name-} ]] || environment+=("$name=${!name}")
done
exec chroot "$ROOT" env -i "${environment[@]}" bash /run/oneke-build/step.sh
