#!/usr/bin/env bash
# Builds a kube-apiserver (1.20) from Debian's source into a folder, which it tells at the end. It takes a quarter of
# an hour and 3 GB beside the folder. For make test-api; nothing else needs it.
set -euo pipefail

target=$(realpath --canonicalize-missing "${1:?usage: build.sh FOLDER}")
work=$target/build
readonly reflect=vendor/github.com/modern-go/reflect2

mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial"
cd "$work"

# The machine's own list of sources need not name source packages; of another release it names no mirror either.
# shellcheck disable=SC2016  # apt's own placeholders
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' \
    'Component: main' | sed -n 1p)}
: "${mirror:?this machine names no archive of Debian 12: set DEBIAN_MIRROR to the address of one}"
readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg
printf '%s\n' "deb [signed-by=$keyring] $mirror bookworm main" \
    "deb-src [signed-by=$keyring] $mirror bookworm main" > apt/sources.list
apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt" -o APT::Sandbox::User=root)
"${apt[@]}" update
DEBIAN_FRONTEND=noninteractive "${apt[@]}" install --yes --no-install-recommends dpkg-dev etcd-server golang-1.19-go \
    jq make rsync > /dev/null
compgen -G 'kubernetes-1.20*/' > /dev/null || "${apt[@]}" source kubernetes

# The vendored copy reads fields of Go's own that later releases of Go do not have: the server would end at its first
# custom object.
"${apt[@]}" download golang-github-modern-go-reflect2-dev
for package in golang-github-modern-go-reflect2-dev_*.deb; do
    dpkg -x "$package" reflect2
done
cd kubernetes-1.20*/
rm -f "$reflect"/*.go "$reflect"/*.s
cp ../reflect2/usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$reflect"
# And an empty text in a custom object would be taken for null: with this release of Go, reflect.DeepEqual finds two
# values of reflect.Value equal that it told apart in the release this source was written for.
sed -i 's/if data == nil || reflect.DeepEqual(reflect.Zero(.*{$/if data == nil {/' \
    vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go

mkdir -p .go/src/k8s.io
ln -sfn ../../.. .go/src/k8s.io/kubernetes
env GOPATH="$PWD/.go" PATH="/usr/lib/go-1.19/bin:$PATH" CGO_ENABLED=0 KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_MAJOR=1 \
    KUBE_GIT_MINOR=20 KUBE_GIT_TREE_STATE=clean KUBE_GIT_COMMIT=debian make WHAT=cmd/kube-apiserver
cp _output/local/bin/linux/*/kube-apiserver "$target/"
cd /
rm -rf "$work"
echo "KUBE_APISERVER=$target/kube-apiserver"
