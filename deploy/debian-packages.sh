#!/bin/sh
# Install the Debian packages behind what make needs, when they are missing: sh deploy/debian-packages.sh venv nginx libgomp cc node
# Says nothing when all is there. Without root, or without apt, it says what to install.
set -eu
PATH="$PATH:/usr/sbin:/sbin" # where Debian keeps nginx and ldconfig, outside a user's own path
python="${PYTHON:-python3}"

is_there() {
    case "$1" in
    venv) "$python" -c 'import ensurepip, venv' 2>/dev/null ;;
    libgomp) ! command -v ldconfig >/dev/null || ldconfig -p | grep -q 'libgomp\.so\.1' ;; # llama.cpp loads it; only Linux names it so
    node) command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

packages_of() {
    case "$1" in
    venv) "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])' ;;
    nginx) echo nginx-light ;;
    libgomp) echo libgomp1 ;;
    cc) echo gcc libc6-dev ;;
    node) if command -v npm >/dev/null; then echo nodejs; else echo nodejs npm; fi ;;
    *) echo "$1" ;;
    esac
}

missing='' packages=''
for need in "$@"; do
    is_there "$need" && continue
    missing="${missing:+$missing, }$need"
    packages="${packages:+$packages }$(packages_of "$need")"
done
[ -n "$packages" ] || exit 0

verb=is
case "$missing" in *,*) verb=are ;; esac
if ! command -v apt-get >/dev/null; then
    echo "$missing $verb missing: install with your system's package manager (on Debian: $packages)" >&2
    exit 1
elif [ "$(id -u)" != 0 ]; then
    echo "$missing $verb missing: run \`sudo apt-get install $packages\`, or run make as root" >&2
    exit 1
fi

# A package must not start a server on port 80 now or at the next boot: our tests and the demo start their own.
log=$(mktemp) policy=''
trap 'rm -f "$log" ${policy:+"$policy"}' EXIT
if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi

install() {
    # shellcheck disable=SC2086  # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 $packages >"$log" 2>&1
}
update() { apt-get update -o DPkg::Lock::Timeout=300 >"$log" 2>&1; }

echo "Installing $packages" >&2
# Package lists that are there save the update; an image's are empty, and an old list names files that are gone.
if ! install && ! { { update || { sleep 5 && update; }; } && install; }; then
    cat "$log" >&2
    echo "$missing $verb missing, and apt-get could not install $packages (its words are above)" >&2
    exit 1
fi
case " $packages " in
*' nginx-light '*) ! command -v systemctl >/dev/null || systemctl --quiet disable nginx >/dev/null 2>&1 || true ;;
esac
case ", $missing, " in
*', node, '*) is_there node || { echo "Node.js must be 20 or newer, and this system's package is older: install it from elsewhere" >&2 && exit 1; } ;;
esac
