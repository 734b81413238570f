#!/usr/bin/env bash
# Have a `cloud-init` in .venv/bin that checks user-data and renders network-config, from the distribution's packages.
#
# Nothing is installed: the packages are fetched and unpacked into .venv/cloud-init, so this machine's own boot does not
# change, and the program made here does no more than `schema` and `devel`. Without apt, or where a cloud-init is on the
# PATH already, it does nothing; the tests that need one say so and are skipped. tools/setup.sh calls it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/apt.sh

# cloud-init, and of what it depends on the Python modules that those two commands import.
PACKAGES=(
    cloud-init python3-attr python3-certifi python3-chardet python3-configobj python3-idna python3-jinja2
    python3-json-pointer python3-jsonpatch python3-jsonschema python3-markupsafe python3-netifaces python3-oauthlib
    python3-pyrsistent python3-requests python3-serial python3-six python3-urllib3 python3-yaml
)
PROGRAM=.venv/bin/cloud-init
FOLDER=$(pwd -P)/.venv/cloud-init

if [ -x "$PROGRAM" ] && grep -qF "$FOLDER/" "$PROGRAM"; then exit 0; fi # not one of a .venv that was moved here
[ ! -x /usr/bin/cloud-init ] || exit 0
command -v apt-get >/dev/null && [ -x /usr/bin/python3 ] || exit 0
have_lists || { may_be_root && update_lists; } || exit 0

echo "apt: unpacking cloud-init's checks into .venv"
rm -rf "$FOLDER"
mkdir -p "$FOLDER/packages"
if ! (cd "$FOLDER/packages" && apt-get download -qq "${PACKAGES[@]}" 2>"$FOLDER/apt.log"); then
    echo "  not to be had: $(tail -n 1 "$FOLDER/apt.log"); the tests that need it are skipped" >&2
    exit 0
fi
for package in "$FOLDER"/packages/*.deb; do
    dpkg-deb --extract "$package" "$FOLDER"
done
rm -rf "$FOLDER/packages"

cat >"$PROGRAM" <<END
#!/bin/sh
# Made by tools/cloud-init.sh: looks at files, and never at this machine.
case "\$1" in
schema | devel | --version) ;;
*) echo "this cloud-init only has schema and devel" >&2 && exit 2 ;;
esac
PYTHONPATH=$FOLDER/usr/lib/python3/dist-packages exec /usr/bin/python3 -W ignore -m cloudinit.cmd.main "\$@"
END
chmod +x "$PROGRAM"
