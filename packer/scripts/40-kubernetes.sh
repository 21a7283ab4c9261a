#!/usr/bin/env bash
# Gives root the cluster's tools as soon as RKE2 has put them there: kubectl, crictl and the
# administrator's kubeconfig of a master. Until then, and on other nodes, the links lead nowhere.
set -euo pipefail

readonly RKE2=/var/lib/rancher/rke2

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
