#!/usr/bin/env bash
# Makes an unconfigured node quiet: all four roles boot from this one image, so what only some of them
# need stays off until the agent turns it on.
#
# ONEKE_NTP_SERVERS  time servers, blanks between (default: those of the distribution)
set -euo pipefail

# haproxy, keepalived and unbound would start with the distribution's example or no configuration. rpcbind and
# the iSCSI initiator come with the client tools that Longhorn needs; they listen on every address.
quiet_units=(
    haproxy.service
    keepalived.service
    unbound.service unbound-resolvconf.service
    nftables.service
    iscsid.socket iscsid.service open-iscsi.service
    rpcbind.socket rpcbind.service nfs-client.target
    # It would take Longhorn's disks for paths to one device (40-kubernetes.sh has more).
    multipathd.socket multipathd.service
    # Fetching package lists is a person's decision; at every first boot it is the whole cluster's load.
    apt-daily.timer apt-daily-upgrade.timer
    # Cloud images have these, which ask machines outside at boot or time and again: for news, updates of
    # firmware and packages, support contracts, randomness; or report crashes there.
    motd-news.timer
    fwupd-refresh.timer
    update-notifier-download.timer update-notifier-motd.timer
    ua-timer.timer ua-reboot-cmds.service ubuntu-advantage.service
    pollinate.service
    apport-autoreport.timer apport-autoreport.path
    # They look for file systems on LVM, of which a node has none; the first does so at every boot.
    e2scrub_reap.service e2scrub_all.timer
)

for unit in "${quiet_units[@]}"; do
    # Packages differ in which of these they ship.
    if [[ -e /lib/systemd/system/$unit || -e /etc/systemd/system/$unit ]]; then
        systemctl --quiet disable --now "$unit" 2>/dev/null || systemctl --quiet disable "$unit"
    fi
done

# A person who logs in would wait for the news, too.
if [[ -e /etc/default/motd-news ]]; then
    sed -i 's/^ENABLED=.*/ENABLED=0/' /etc/default/motd-news
fi

# With this folder journald keeps the journal over reboots: the reason of a failed boot must survive it.
install -d -m 2755 -o root -g systemd-journal /var/log/journal

# Certificates, etcd and tokens want the clocks of all nodes to agree. Where servers are named, no others
# are asked: an isolated network has none.
readonly TIME_SERVERS=/etc/systemd/timesyncd.conf.d/50-oneke.conf
if [[ -n ${ONEKE_NTP_SERVERS-} ]]; then
    install -d -m 0755 "${TIME_SERVERS%/*}"
    printf '[Time]\nNTP=%s\nFallbackNTP=\n' "$ONEKE_NTP_SERVERS" > "$TIME_SERVERS"
    chmod 0644 "$TIME_SERVERS"
else
    rm -f "$TIME_SERVERS"
fi
systemctl --quiet enable systemd-timesyncd.service
