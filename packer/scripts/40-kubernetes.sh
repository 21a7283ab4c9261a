#!/usr/bin/env bash
# What a node of the cluster needs that a gateway has no use for; here only prepared, as one image serves all.
set -euo pipefail

install -d -m 0755 /etc/profile.d
cat > /etc/profile.d/oneke.sh <<'PROFILE'
# Where a master's kubeconfig is; others than root can not read it.
if [ -r /etc/rancher/rke2/rke2.yaml ]; then
    export KUBECONFIG=/etc/rancher/rke2/rke2.yaml
fi
PROFILE
chmod 0644 /etc/profile.d/oneke.sh

# Should somebody run multipathd all the same, it has to leave the disks alone that Longhorn attaches. They
# are sd*; a VM's own SCSI disks have their paths on the host.
# Source: multipath.conf(5), blacklist section; Longhorn's knowledge base on volumes and multipath.
install -d -m 0755 /etc/multipath/conf.d
cat > /etc/multipath/conf.d/oneke-longhorn.conf <<'MULTIPATH'
blacklist {
    devnode "^sd[a-z0-9]+"
}
MULTIPATH
chmod 0644 /etc/multipath/conf.d/oneke-longhorn.conf
