#!/bin/sh
# Rebuilds web/three.bundle.js from web/three_entry.js with the versions of package-lock.json.
# Needs npm and a package registry; run it after a change of three_entry.js or of package.json:
#   npm install --package-lock-only --omit-lockfile-registry-resolved   (a changed package.json)
#   sh twodal_jax/viewer/build.sh
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/package.json" "$here/package-lock.json" "$here/web/three_entry.js" "$work"
cd "$work"
npm ci --no-audit --no-fund --ignore-scripts --omit-lockfile-registry-resolved
npx esbuild three_entry.js --bundle --minify --format=iife --global-name=THREE --target=es2020 \
  --legal-comments=none --outfile=body.js
sha() { sha256sum "$1" | cut -d' ' -f1; }
version=$(node -p 'JSON.parse(fs.readFileSync("node_modules/three/package.json")).version')
{
  echo "/*! three.js $version, built by build.sh from three_entry.js; not to be edited."
  echo " * sha256 of three_entry.js: $(sha three_entry.js)"
  echo " * sha256 of what follows this comment: $(sha body.js)"
  echo " *"
  sed 's/^/ * /; s/ *$//' node_modules/three/LICENSE
  echo " */"
  cat body.js
} > three.bundle.js
mv three.bundle.js "$here/web/three.bundle.js"
