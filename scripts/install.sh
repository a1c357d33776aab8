#!/bin/sh
# Installs a release of sparing, or removes it. Needs no root with --prefix.
#   install.sh --from URL|FOLDER [--prefix DIR]    the place that has SHA256SUMS and the archives
#   install.sh --uninstall [--prefix DIR]
# The archive is checked against SHA256SUMS before anything is written under the prefix.
set -eu

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

from='' prefix='' remove=''
while [ $# -gt 0 ]; do
    case $1 in
    --from | --prefix)
        [ $# -gt 1 ] || fail "$1 needs a value"
        if [ "$1" = --from ]; then from=$2; else prefix=$2; fi
        shift
        ;;
    --uninstall) remove=1 ;;
    *) fail "there is no option $1; it takes --from, --prefix and --uninstall" ;;
    esac
    shift
done
[ -n "$prefix" ] || if [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=$HOME/.local; fi
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
list=$prefix/share/sparing/installed

if [ -n "$remove" ]; then
    [ -f "$list" ] || fail "$list is not there: nothing was installed under $prefix"
    while IFS= read -r file; do rm -f "$prefix/$file"; done < "$list"
    rm -f "$list"
    rmdir "$prefix/share/sparing" 2>/dev/null || true
    echo "Removed. Models and conversations stay where they are."
    exit
fi

[ -n "$from" ] || fail "from where? --from URL|FOLDER"
[ "$(uname -s)" = Linux ] || fail "there is no build for $(uname -s): use a container or a virtual machine with Linux"
machine=$(uname -m)
case $machine in x86_64 | aarch64) ;; *) fail "there is no build for $machine" ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
get() {
    case $from in
    http://* | https://*) curl -fsSL --retry 3 -o "$work/$1" "$from/$1" || fail "$from/$1 cannot be fetched" ;;
    *) cp "$from/$1" "$work/$1" 2>/dev/null || fail "$from/$1 is not there" ;;
    esac
}
get SHA256SUMS
line=$(grep -E "^[0-9a-f]{64}  sparing-[0-9.]+-linux-$machine\.tar\.gz\$" "$work/SHA256SUMS" | tail -n 1) || true
[ -n "$line" ] || fail "SHA256SUMS names no archive for $machine"
archive=${line#*  }
get "$archive"
(cd "$work" && echo "$line" | sha256sum -c - >/dev/null 2>&1) || fail "$archive is not what SHA256SUMS says; nothing was installed"
mkdir "$work/new"
tar -xzf "$work/$archive" -C "$work/new" --no-same-owner --strip-components=1
missing=$(ldd "$work/new/bin/sparing" | sed -n 's/^[[:space:]]*\([^ ]*\) => not found.*/\1/p' | tr '\n' ' ')
[ -z "$missing" ] || fail "this machine lacks libraries: ${missing}(Debian: the package of sparing brings them); nothing was installed"

sed -i "s|@PREFIX@|$prefix|" "$work/new/lib/systemd/system/sparing.service"
mkdir -p "$prefix/share/sparing"
(cd "$work/new" && find . -type f | sed 's|^\./||' | LC_ALL=C sort) > "$list.new"
while IFS= read -r file; do
    mkdir -p "$prefix/$(dirname "$file")"
    cp -f "$work/new/$file" "$prefix/$file.new"
    mv -f "$prefix/$file.new" "$prefix/$file"
done < "$list.new"
mv -f "$list.new" "$list"
echo "Installed $("$prefix/bin/sparing" version | cut -d' ' -f1-2) under $prefix. Next:"
echo "  $prefix/bin/sparing pull smollm2-135m"
echo "  $prefix/bin/sparing chat"
