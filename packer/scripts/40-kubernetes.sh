#!/usr/bin/env bash
# What a node of the cluster needs that a gateway has no use for; here only prepared, as one image serves all.
set -euo pipefail

readonly RKE2=/var/lib/rancher/rke2

# Root has the cluster's tools as soon as RKE2 has put them there: kubectl, crictl and the administrator's
# kubeconfig of a master. Until then, and on other nodes, the links lead nowhere.
install -d -m 0755 /usr/local/bin /etc/profile.d
for tool in kubectl crictl; do
    ln -sfnT "$RKE2/bin/$tool" "/usr/local/bin/$tool"
done
ln -sfnT "$RKE2/agent/etc/crictl.yaml" /etc/crictl.yaml

# For programs that read neither profile nor environment, such as those started by ssh.
install -d -m 0700 /root/.kube
ln -sfnT /etc/rancher/rke2/rke2.yaml /root/.kube/config

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
