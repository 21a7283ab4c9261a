#!/usr/bin/env bash
# Takes away what the lab's containers need and a machine of its own has really: links to disks come from udev
# and modules from the kernel's package.
set -euo pipefail

shopt -s nullglob
rm -r /usr/sbin/lab-disk-links /usr/lib/systemd/system/lab-disk-links.service \
    /usr/lib/systemd/system/var-lib-longhorn.mount.d
for modules in /lib/modules/*/; do
    # The kernel's package brings its modules themselves, not only the names of what is built in.
    [[ -d $modules/kernel ]] || rm -r "$modules"
done
# The context is on a disc.
rmdir /var/lib/lab-context
