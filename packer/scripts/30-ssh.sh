#!/usr/bin/env bash
# ssh with keys only. Forwarding stays: nodes of the private network are reached through a gateway.
set -euo pipefail

# sshd keeps the first value it meets, and cloud images bring files of their own with higher numbers.
install -d -m 0755 /etc/ssh/sshd_config.d
cat > /etc/ssh/sshd_config.d/10-oneke.conf <<'SSHD'
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitEmptyPasswords no
X11Forwarding no
PermitUserEnvironment no
LoginGraceTime 30
# A client that went away with its network is forgotten after six minutes.
ClientAliveInterval 120
ClientAliveCountMax 3
SSHD
chmod 0644 /etc/ssh/sshd_config.d/10-oneke.conf
