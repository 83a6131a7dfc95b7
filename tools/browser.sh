#!/bin/sh
# A browser for the tests of the widgets: the one that is here, else Debian's chromium (as root), else Playwright's own. $1: the environment's bin/.
set -e
for b in "$DRGNBOOK_BROWSER" chromium chromium-browser google-chrome google-chrome-stable; do
  [ -n "$b" ] && command -v "$b" >/dev/null && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing chromium, for the tests of the widgets"
  apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null && exit 0
fi
"$1/python" -m playwright install chromium || {
  echo "The tests of the widgets need a browser: install chromium or Chrome, or name one in DRGNBOOK_BROWSER." >&2; exit 1; }
