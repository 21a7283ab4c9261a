#!/usr/bin/env bash
# Puts the stand-in for the contextualization package, and what else only the lab has, into the root it
# runs in. Before 60-contextualization.sh, as the real package is in the image before that.
#
# LAB_CONTEXT  folder with the files (default: /run/oneke-build/context)
set -euo pipefail

readonly SOURCE=${LAB_CONTEXT:-/run/oneke-build/context}

cp -R --no-preserve=ownership "$SOURCE/root/." /
chmod 0755 /usr/sbin/one-contextd /usr/sbin/one-context-reconfigure /usr/sbin/lab-disk-links /etc/one-context.d/*
install -d -m 0700 /var/lib/lab-context
# See loc-12-host-key.
install -d /usr/lib/lab-context
ssh-keygen -q -t rsa -N '' -C lab -f /usr/lib/lab-context/ssh_host_rsa_key
systemctl --quiet enable one-context-local.service one-context-online.service one-context.service

# What cloud images bring for networks; NETCFG_TYPE in a node's context has one of them used.
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends ifupdown isc-dhcp-client netplan.io systemd-resolved > /dev/null
systemctl --quiet disable networking.service systemd-networkd.service systemd-resolved.service

# A node has no modules of its own; what the kernel of the machine has built in may be "loaded".
modules=/lib/modules/$(uname -r)
install -d -m 0755 "$modules"
printf 'kernel/%s.ko\n' fs/overlayfs/overlay net/bridge/br_netfilter > "$modules/modules.builtin"
: > "$modules/modules.order"
depmod -a
