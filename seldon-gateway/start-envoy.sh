#!/bin/sh
# Envoy in its container. The bootstrap is made with the image; what the place it runs in knows is
# put in here: how much memory there is, how many cores, and the host's name, by which the control
# plane knows each Envoy.
set -eu

heap=${SELDON_ENVOY_HEAP:-1024}
case $heap in
'' | *[!0-9]* | 0* | ????????*) heap=0 ;;
esac
if [ "$heap" -lt 128 ] || [ "$heap" -gt 1048576 ]; then
    echo "envoy: SELDON_ENVOY_HEAP is '$SELDON_ENVOY_HEAP', expected MiB from 128 to 1048576" >&2
    exit 1
fi

# Both are the heap's: the second is half of it (seldon_gateway/envoy_bootstrap.py).
sed -e "s/\(\"max_heap_size_bytes\": \)[0-9]*/\1$((heap << 20))/" \
    -e "s/\(\"http.async_response_buffer_limit\": \)[0-9]*/\1$((heap << 19))/" \
    /etc/envoy/envoy.json >/tmp/envoy.json

exec envoy --config-path /tmp/envoy.json --concurrency "${SELDON_ENVOY_THREADS:-1}" \
    --service-node "gateway-${HOSTNAME:-$(cat /etc/hostname)}" --disable-hot-restart --log-level warning \
    --file-flush-interval-msec 1000
