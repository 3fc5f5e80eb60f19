#!/bin/sh
# Starts Envoy in its container. The image holds the bootstrap; this script sets what depends on
# where it runs: heap, threads, poll interval, and the host name as node id.
set -eu

refuse() {
    echo "envoy: $1 is '$2', expected $3" >&2
    exit 1
}

heap=${SELDON_ENVOY_HEAP:-1024}
case $heap in
'' | *[!0-9]* | 0* | ????????*) heap=0 ;;
esac
if [ "$heap" -lt 128 ] || [ "$heap" -gt 1048576 ]; then
    refuse SELDON_ENVOY_HEAP "$SELDON_ENVOY_HEAP" "an integer from 128 to 1048576, in MiB"
fi
# The second is half of the heap (seldon_gateway/envoy_bootstrap.py).
set -- -e "s/\(\"max_heap_size_bytes\": \)[0-9]*/\1$((heap << 20))/" \
    -e "s/\(\"http.async_response_buffer_limit\": \)[0-9]*/\1$((heap << 19))/"

# Converts seconds such as 4 or 0.25.
milliseconds() {
    case $1 in
    '' | *[!0-9.]* | *.*.* | .* | *. | 0[0-9]*) return 1 ;;
    esac
    whole=${1%%.*}
    part=${1#"$whole"}
    part=${part#.}
    if [ ${#whole} -gt 6 ] || [ ${#part} -gt 6 ]; then
        return 1
    fi
    part=$(printf '%.3s' "${part}000")
    echo $((whole * 1000 + 1$part - 1000)) # the 1: a number that begins with 0 is octal
}

# NAME VALUE, minimum and maximum in milliseconds, and both in seconds for the message.
check_seconds() {
    ms=$(milliseconds "$2") || ms=-1
    if [ "$ms" -lt "$3" ] || [ "$ms" -gt "$4" ]; then
        refuse "$1" "$2" "seconds from $5 to $6"
    fi
}

if [ -n "${SELDON_POLL:-}" ]; then
    check_seconds SELDON_POLL "$SELDON_POLL" 50 60000 0.05 60
    set -- "$@" -e "s/\(\"refresh_delay\": \)\"[^\"]*\"/\1\"${SELDON_POLL}s\"/"
fi
if [ -n "${SELDON_JWKS_CACHE:-}" ]; then
    check_seconds SELDON_JWKS_CACHE "$SELDON_JWKS_CACHE" 1000 86400000 1 86400
    set -- "$@" -e "s/\(\"cache_duration\": \)\"[^\"]*\"/\1\"${SELDON_JWKS_CACHE}s\"/"
fi

sed "$@" /etc/envoy/envoy.json >/tmp/envoy.json

exec envoy --config-path /tmp/envoy.json --concurrency "${SELDON_ENVOY_THREADS:-1}" \
    --service-node "gateway-${HOSTNAME:-$(cat /etc/hostname)}" --disable-hot-restart --log-level warning \
    --file-flush-interval-msec 1000
