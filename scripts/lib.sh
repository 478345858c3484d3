# Shell functions of the scripts beside this file; to be sourced, with ROOT set.
# shellcheck shell=sh

PYTHON=${PYTHON:-python3}
VENV=${VENV:-$ROOT/.venv}
CACHE=$ROOT/.cache

# say TEXT: one line about what goes on, apart from what the programs print.
say() {
    printf '== %s\n' "$*"
}

# missing WHAT HOW: note in one line what cannot be had, and how to get it. The notes are repeated
# at the end of a run, and with CI=true they fail it.
missing() {
    printf 'missing: %s: %s\n' "$1" "$2" >&2
    if [ -n "${MISSING_FILE:-}" ]; then
        printf 'missing: %s: %s\n' "$1" "$2" >>"$MISSING_FILE"
    fi
}

in_ci() {
    case ${CI:-} in true | TRUE | True | 1 | yes) return 0 ;; *) return 1 ;; esac
}

# apt_has PACKAGE: is this Debian package installed?
apt_has() {
    case $(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null || true) in
    ii*) return 0 ;;
    *) return 1 ;;
    esac
}

# apt_need PACKAGE...: install what is not there, if this is root on Debian; false if it cannot be
# had. Prints what apt says only when it fails.
apt_need() {
    wanted=
    for package in "$@"; do
        apt_has "$package" || wanted="$wanted $package"
    done
    if [ -z "$wanted" ]; then
        return 0
    fi
    if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
        return 1
    fi
    say "installing$wanted"
    apt_log=$(mktemp)
    # The lists may be missing or old on a fresh machine, hence the second try.
    # shellcheck disable=SC2086
    if apt_install $wanted >"$apt_log" 2>&1 ||
        { apt-get update -q >>"$apt_log" 2>&1 && apt_install $wanted >>"$apt_log" 2>&1; }; then
        rm -f "$apt_log"
        return 0
    fi
    cat "$apt_log" >&2
    rm -f "$apt_log"
    return 1
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q \
        --no-install-recommends "$@" </dev/null
}

# apt_need_stopped PACKAGE...: the same for packages with a server inside, which is not to be started
# as a service of this machine: a policy-rc.d that answers 101 keeps the installation from it.
apt_need_stopped() {
    policy=/usr/sbin/policy-rc.d
    if [ "$(id -u)" != 0 ] || [ -e "$policy" ]; then
        apt_need "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d; exit 1' HUP INT TERM
    apt_status=0
    apt_need "$@" || apt_status=$?
    rm -f "$policy"
    trap - HUP INT TERM
    return $apt_status
}

# need_compiler: a C compiler and Python's headers, without which there is no engine; ends the
# script if they cannot be had.
need_compiler() {
    if ! has_compiler && ! { apt_need gcc libc6-dev && has_compiler; }; then
        missing "a C compiler" "apt-get install gcc libc6-dev (as root), or set CC"
        exit 1
    fi
    if ! has_headers && ! { apt_need python3-dev && has_headers; }; then
        missing "Python's headers" "apt-get install python3-dev (as root)"
        exit 1
    fi
}

has_compiler() {
    command -v "${CC:-cc}" >/dev/null 2>&1
}

has_headers() {
    "$PYTHON" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'
}

# need_venv DIRECTORY REQUIREMENT...: a virtual environment of $PYTHON with these installed. Quick
# when it is there already; made anew when it was made for other requirements or another Python.
need_venv() {
    venv=$1
    shift
    mark="$("$PYTHON" -c 'import sys; print(sys.executable, sys.version)') $*"
    if [ "$(cat "$venv/.complete" 2>/dev/null)" = "$mark" ]; then
        return 0
    fi
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    if ! "$PYTHON" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        if ! { apt_need python3-venv && "$PYTHON" -m venv "$venv"; }; then
            rm -rf "$venv"
            missing "Python's module venv" "apt-get install python3-venv (as root)"
            return 1
        fi
    fi
    if ! "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@"; then
        rm -rf "$venv"
        missing "the Python packages $*" "give pip access to a package index"
        return 1
    fi
    printf '%s\n' "$mark" >"$venv/.complete"
}

# requirements EXTRA...: print what these extras of pyproject.toml require, a word each.
requirements() {
    "$PYTHON" - "$ROOT/pyproject.toml" "$@" <<'END'
import re, sys
text = open(sys.argv[1], encoding="utf-8").read()
for extra in sys.argv[2:]:
    listed = re.search(rf"^{extra} = \[(.*?)\]", text, re.M | re.S).group(1)
    print(*re.findall(r'"([^"]+)"', listed))
END
}

# build_engine PYTHON DIRECTORY: build the extension inside the source tree DIRECTORY, if a source
# is newer than it. PYTHON must have setuptools and cffi.
build_engine() {
    engine=$("$1" - "$2" <<'END'
import importlib.machinery, pathlib, sys
for suffix in importlib.machinery.EXTENSION_SUFFIXES:
    path = pathlib.Path(sys.argv[1], "Milter", "_engine" + suffix)
    if path.exists():
        print(path)
        break
END
)
    if [ -n "$engine" ] && [ -z "$(find "$2/milter_c" "$2/setup.py" -name test -prune -o \
        -type f -newer "$engine" -print -quit)" ]; then
        return 0
    fi
    say "building the engine for $("$1" -c 'import platform
print(platform.python_implementation(), platform.python_version())')"
    (cd "$2" && "$1" setup.py -q build_ext --inplace --force) || return 1
    # Untouched if the compiler had nothing to do.
    find "$2/Milter" -name '_engine*.so' -exec touch {} +
}
