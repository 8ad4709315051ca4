#!/bin/sh
# Makes a checkout runnable: Debian packages, npm packages (Node 24 among them), native code, BPF objects, bundle.
# Called by ./portolan when something is missing or older than its sources; does only what is needed.
#   usage: tools/setup.sh [test|bench]      with the packages that tests and benchmarks need besides
set -u
cd "$(dirname "$0")/.." || exit 1
here=$(pwd)
say() { printf '%s\n' "$*" >&2; }
fail() { say "error[SETUP]: $1"; say "  $2"; exit 1; }

[ -w . ] && { [ ! -e dist ] || [ -w dist ]; } || fail "$(pwd) has to be built, and this user may not write there" 'Run it once as root: sudo ./portolan --version'

# One at a time: two first starts would install and build over each other.
lock=dist/.setup.lock
wait_s=${PORTOLAN_SETUP_WAIT:-900}
if command -v flock >/dev/null 2>&1 && mkdir -p dist; then
  exec 9>>$lock
  if ! flock -n 9; then
    read -r holder <$lock || holder=unknown
    say "setup: process $holder builds already; waiting for it, ${wait_s} s at most"
    flock -w "$wait_s" 9 || fail "process $holder has held $here/$lock for more than ${wait_s} s" "See what it does: ps -f $holder; if it hangs, end it and its children: kill $holder. To wait longer: PORTOLAN_SETUP_WAIT=SECONDS"
  fi
  echo $$ >$lock
fi

# command:package; a command that is there needs no package, wherever it came from
wanted='clang:clang ld.lld:lld gcc:gcc ip:iproute2 nft:nftables nsenter:util-linux curl:curl busybox:busybox-static'
files='/usr/include/bpf/bpf_helpers.h:libbpf-dev /usr/include/linux/bpf.h:linux-libc-dev'
case ${1-} in
  test | bench)
    wanted="$wanted bpftool:bpftool conntrack:conntrack tcpdump:tcpdump iperf3:iperf3 jq:jq ping:iputils-ping
      containerd:containerd runc:runc python3:python3-minimal ethtool:ethtool
      socat:socat iptables:iptables git:git ps:procps"
    files="$files /usr/lib/cni/bridge:containernetworking-plugins"
    ;;
esac
PATH=$PATH:/usr/sbin:/sbin
missing=
for pair in $wanted; do command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"; done
for pair in $files; do [ -e "${pair%%:*}" ] || missing="$missing ${pair#*:}"; done
command -v npm >/dev/null 2>&1 || missing="$missing nodejs npm"
if [ -n "$missing" ]; then
  line="apt-get install -y --no-install-recommends$missing"
  command -v apt-get >/dev/null 2>&1 || fail "these Debian packages (or their equals) are missing:$missing" "Install them with your system's package manager, then run this again"
  [ "$(id -u)" = 0 ] || fail "Debian packages are missing:$missing" "Run: sudo $line"
  log=$(mktemp)
  say "setup: installing Debian packages:$missing"
  # shellcheck disable=SC2086
  if ! { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >"$log" 2>&1 ||
    { apt-get update -qq >>"$log" 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >>"$log" 2>&1; }; }; then
    tail -n 5 "$log" >&2
    fail "apt-get could not install all packages (its log: $log)" "Run by hand, and see why: $line"
  fi
  rm -f "$log"
fi

case $(uname -m) in aarch64 | arm64) arch=arm64 ;; *) arch=x64 ;; esac
node=node_modules/node-linux-$arch/bin/node
if [ ! -x $node ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  say 'setup: installing npm packages (npm ci)'
  log=$(mktemp)
  if ! npm ci --ignore-scripts --no-audit --no-fund >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    fail "npm ci failed (its log: $log)" 'Check the network and the npm registry setting, then run this again'
  fi
  rm -f "$log"
  touch node_modules/.package-lock.json
fi
[ -x $node ] || fail "npm installed no Node for $(uname -m)" 'Portolan builds for x86_64 and arm64 Linux'
say 'setup: building'
$node --disable-warning=ExperimentalWarning tools/build.ts || exit 1
