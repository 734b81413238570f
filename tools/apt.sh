# For the other scripts here to source: need_packages PACKAGE… installs what is missing of a distribution's packages.

as_root() { # as_root COMMAND…: as root, or by a sudo that asks nothing
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo --non-interactive "$@"; fi
}

may_be_root() {
    [ "$(id -u)" -eq 0 ] || { command -v sudo && sudo --non-interactive true; } >/dev/null 2>&1
}

have_lists() { # has apt-get update been run on this machine?
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null
}

update_lists() {
    echo "apt: fetching the package lists"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

need_packages() { # need_packages PACKAGE…: install them, or end with one message that lists them
    [ $# -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "missing on this machine, which has no apt; Debian's names: $*" >&2
        echo "  Install them by your own means, then run this again." >&2
        return 1
    fi
    if ! may_be_root; then
        echo "missing on this machine: $*" >&2
        echo "  Neither root nor a sudo without a password here. Have an administrator run:" >&2
        echo "  apt-get update && apt-get install --no-install-recommends $*" >&2
        return 1
    fi
    local refreshed=no
    have_lists || { update_lists && refreshed=yes; }
    echo "apt: installing $*"
    # Lists that are old name versions that the mirror no longer has.
    apt_install "$@" || { [ "$refreshed" = no ] && update_lists && apt_install "$@"; }
}
