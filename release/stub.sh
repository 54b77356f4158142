#!/bin/sh
# planrunner @VERSION@ for Linux. What follows these lines is its program: it is unpacked once, below the cache of whoever
# runs it, and started from there. It needs tar and gzip for that, and no Python.
set -eu
fail() {
  echo "error: planrunner could not be unpacked: $1" >&2
  echo "  It needs about @SIZE@ MB in a folder of your own: name one by PLANRUNNER_CACHE, or clear the one that is named." >&2
  exit 1
}
# A folder is taken only when it is ours alone: somebody else's could hold another program.
ours() {
  mkdir -p "$1" 2>/dev/null && [ ! -L "$1" ] && [ -O "$1" ] && [ -w "$1" ]
}
unpack() {
  new=$(mktemp -d "$1/.new.XXXXXX") || fail "no folder can be made in $1"
  trap 'rm -rf "$new"' EXIT
  trap 'exit 130' INT TERM HUP
  tail -n +@LINES@ "$0" | tar -xzf - -C "$new" || fail "$1"
  # Whoever was faster has unpacked the same.
  mv -T "$new" "$1/@DIGEST@" 2>/dev/null || [ -x "$1/@DIGEST@/planrunner" ] || fail "$1/@DIGEST@ is in the way"
  rm -rf "$new"
  trap - EXIT INT TERM HUP
}
mask=$(umask)
umask 077
cache=
for place in "${PLANRUNNER_CACHE:-}" "${XDG_CACHE_HOME:+$XDG_CACHE_HOME/planrunner}" "${HOME:+$HOME/.cache/planrunner}" \
  "${TMPDIR:-/tmp}/planrunner-$(id -u)"; do
  if [ -n "$place" ] && ours "$place"; then
    cache=$place
    break
  fi
done
[ -n "$cache" ] || fail "no folder of your own was found"
[ -x "$cache/@DIGEST@/planrunner" ] || unpack "$cache"
umask "$mask"
exec "$cache/@DIGEST@/planrunner" "$@"
