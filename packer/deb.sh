#!/usr/bin/env bash
# Makes a Debian package of what 80-agent.sh puts into an image, for people who build images their own way. It is for
# the release and the machine that it is made on: byte code and compiled libraries are of one Python.
#
#   deb.sh FOLDER        makes FOLDER/oneke-agent_VERSION_ARCHITECTURE.deb
#
# ONEKE_WHEELS         folder of wheels (default: they are made by wheels.sh)
# DEBFULLNAME DEBEMAIL who makes the package (default: nobody that mail reaches; nothing of this machine is written)
# SOURCE_DATE_EPOCH    its time (default: that of the last commit)
set -euo pipefail

PACKER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly PACKER TARGET=${1:?expected a folder for the package}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
readonly ROOT=$work/root

release() {
    # shellcheck source=/dev/null
    (. /etc/os-release && echo "$VERSION_CODENAME")
}

# All packages that the image's first script installs but those every system has, and what only an installation
# from wheels needs.
depends() {
    local version
    version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    printf 'libc6, python3 (>= %s), python3 (<< %s.%s)' "$version" "${version%.*}" $((${version#*.} + 1))
    "$PACKER/scripts/10-packages.sh" --list | grep -vxE 'util-linux|python3|python3-venv' | sort \
        | while read -r package; do printf ', %s' "$package"; done
}

# The licences of what the environment carries, by what each package says of itself.
describe_licences() {
    local metadata
    for metadata in "$ROOT"/opt/oneke/lib/python3*/site-packages/*.dist-info/METADATA; do
        awk -F ': ' '
            /^$/ { exit }
            $1 == "Name" { name = $2 }
            $1 == "License-Expression" { licence = $2 }
            $1 == "License" && !licence { licence = $2 }
            $1 == "Classifier" && $2 ~ /^License :: / && !licence { licence = $2; sub(/.* :: /, "", licence) }
            END { printf "  %s: %s\n", name, licence ? licence : "see its folder" }
        ' "$metadata"
    done
}

if [[ -z ${ONEKE_WHEELS-} ]]; then
    ONEKE_WHEELS=$work/wheels
    "$PACKER/wheels.sh" all "$(release)" "$(uname -m)" "$ONEKE_WHEELS"
fi
DESTDIR=$ROOT ONEKE_WHEELS=$ONEKE_WHEELS "$PACKER/scripts/80-agent.sh"

version=$("$ROOT/opt/oneke/bin/python" -c 'import appliance; print(appliance.__version__)')
architecture=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-oneke-agent maintainers} <${DEBEMAIL:-oneke-agent@oneke.invalid}>"
if [[ -z ${SOURCE_DATE_EPOCH-} ]]; then
    SOURCE_DATE_EPOCH=$(git -C "$PACKER" log -1 --format=%ct 2>/dev/null || date +%s)
fi
export SOURCE_DATE_EPOCH

# Who builds an image around the package finds there how ours is made quiet, and its ssh, time and kernel set.
cp -R "$PACKER/scripts" "$ROOT/opt/oneke/share/oneke/image-scripts"

documentation=$ROOT/usr/share/doc/oneke-agent
install -d -m 0755 "$documentation" "$ROOT/usr/share/lintian/overrides" "$ROOT/DEBIAN"
install -m 0644 "$PACKER/deb/lintian-overrides" "$ROOT/usr/share/lintian/overrides/oneke-agent"
cat > "$documentation/copyright" <<COPYRIGHT
Copyright (C) 2026 the contributors of oneke-agent

oneke-agent is under the Apache License, version 2.0; on Debian systems its text is in
/usr/share/common-licenses/Apache-2.0.

/opt/oneke carries these packages for Python, each with its licence in its folder of site-packages:

$(describe_licences)
COPYRIGHT
gzip --no-name -9 > "$documentation/changelog.gz" <<CHANGELOG
oneke-agent ($version) $(release); urgency=medium

  * Made from the project's tree; what changed is in its CHANGELOG.md.

 -- $maintainer  $(date --utc --date "@$SOURCE_DATE_EPOCH" --rfc-email)
CHANGELOG

sed -e "s|@VERSION@|$version|; s|@ARCHITECTURE@|$architecture|; s|@MAINTAINER@|$maintainer|" \
    -e "s|@DEPENDS@|$(depends)|; s|@SIZE@|$(du --summarize --apparent-size --block-size=1024 "$ROOT" | cut -f 1)|" \
    "$PACKER/deb/control.in" > "$ROOT/DEBIAN/control"
install -m 0755 "$PACKER/deb/postinst" "$PACKER/deb/prerm" "$PACKER/deb/postrm" "$ROOT/DEBIAN/"
(cd "$ROOT" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | sort --zero-terminated | xargs -0 md5sum) \
    > "$ROOT/DEBIAN/md5sums"
chmod 0644 "$ROOT/DEBIAN/control" "$ROOT/DEBIAN/md5sums"

mkdir -p "$TARGET"
dpkg-deb --root-owner-group --build "$ROOT" "$TARGET/oneke-agent_${version}_$architecture.deb"
