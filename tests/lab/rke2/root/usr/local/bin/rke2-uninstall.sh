#!/bin/sh
# Removes RKE2 from this node, with its program, units, configuration and data.
set -u

/usr/local/bin/rke2-killall.sh
systemctl --quiet disable rke2-server.service rke2-agent.service
rm -rf /etc/rancher/rke2 /etc/rancher/node /etc/cni /opt/cni/bin /var/lib/kubelet \
    /var/lib/rancher/rke2 /run/rke2-double /usr/local/bin/rke2 /usr/local/bin/rke2-killall.sh \
    /usr/local/lib/systemd/system/rke2-server.service \
    /usr/local/lib/systemd/system/rke2-agent.service \
    /usr/local/lib/systemd/system/rke2-server.env /usr/local/lib/systemd/system/rke2-agent.env
rm -rf /usr/local/lib/rke2-double
systemctl daemon-reload
rm -f /usr/local/bin/rke2-uninstall.sh
