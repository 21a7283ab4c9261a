#!/usr/bin/env bash
# Makes the image that the cleaner's pods run in, and lays it where RKE2 loads images from at its start: the
# distribution's static busybox and nothing else, so that no registry is needed for it.
#
# The archive is what `docker save` writes. Equal input gives equal bytes, and one that is there already stays.
#
# ONEKE_IMAGES  folder for the archive (default: where RKE2 looks)
set -euo pipefail

readonly IMAGE=localhost/oneke/busybox:static
readonly IMAGES=${ONEKE_IMAGES:-/var/lib/rancher/rke2/agent/images}
readonly ARCHIVE=$IMAGES/oneke-busybox.tar

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Downloaded, not installed: it conflicts with the busybox that other packages want. apt checks what it
# downloads against the archive's signed lists.
cd "$work"
apt-get -qq -o APT::Sandbox::User=root download busybox-static
install -d unpacked layer/bin image
dpkg-deb --extract busybox-static_*.deb unpacked
binary=unpacked/bin/busybox
if [[ ! -e $binary ]]; then
    binary=unpacked/usr/bin/busybox
fi
install -m 0755 "$binary" layer/bin/busybox

make_tar() {
    tar --create --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
        --mode=u=rwX,go=rX --directory "$2" --file "$1" "${@:3}"
}

make_tar image/layer.tar layer bin
layer=$(sha256sum image/layer.tar | cut -d ' ' -f 1)
cat > image/config.json <<JSON
{"architecture":"$(dpkg --print-architecture)","os":"linux","created":"1970-01-01T00:00:00Z",
"config":{"Entrypoint":["/bin/busybox"]},
"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},
"history":[{"created":"1970-01-01T00:00:00Z","comment":"busybox-static"}]}
JSON
config=$(sha256sum image/config.json | cut -d ' ' -f 1).json
mv image/config.json "image/$config"
printf '[{"Config":"%s","RepoTags":["%s"],"Layers":["layer.tar"]}]\n' "$config" "$IMAGE" > image/manifest.json
make_tar busybox.tar image manifest.json "$config" layer.tar

install -d -m 0755 "$IMAGES"
if ! cmp --silent busybox.tar "$ARCHIVE"; then
    install -m 0644 busybox.tar "$ARCHIVE"
    echo "50-busybox-image: $ARCHIVE holds $IMAGE, $(stat --format %s "$ARCHIVE") bytes"
fi
