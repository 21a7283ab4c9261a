#!/usr/bin/env bash
# Puts RKE2 into the root it runs in: the double, or the real one where its tarball is given.
# Like the real tarball it enables nothing.
#
# LAB_RKE2  folder with the double, and perhaps rke2.tar.gz and helm (default: /run/oneke-build/rke2)
set -euo pipefail

readonly SOURCE=${LAB_RKE2:-/run/oneke-build/rke2}
readonly PROGRAM=/usr/local/lib/rke2-double

# Helm is no part of RKE2; an image has it beside it, and so has a node of the lab.
if [[ -e $SOURCE/helm ]]; then
    install -D -m 0755 "$SOURCE/helm" /usr/local/bin/helm
fi

if [[ -e $SOURCE/rke2.tar.gz ]]; then
    tar --extract --gzip --no-same-owner --file "$SOURCE/rke2.tar.gz" --directory /usr/local
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends python3-yaml openssl

# Only the program of etcd: the double starts it itself, and its unit must not be there.
unpacked=$(mktemp -d)
(
    cd "$unpacked"
    apt-get -qq download etcd-server
    dpkg-deb --extract ./*.deb root
)
install -D -m 0755 "$unpacked/root/usr/bin/etcd" "$PROGRAM/etcd"
rm -rf "$unpacked"

cp -R --no-preserve=ownership "$SOURCE/root/." /
cp -R --no-preserve=ownership "$SOURCE/double" "$PROGRAM/"
chmod 0755 /usr/local/bin/rke2 /usr/local/bin/rke2-*.sh
chmod -R u=rwX,go=rX "$PROGRAM"
python3 -m compileall -q "$PROGRAM"
