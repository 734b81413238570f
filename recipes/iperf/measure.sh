#!/bin/sh
# Measure from this guest to the last one, whose iperf3 listens; usage: measure.sh SECONDS
# Prints metrics, and leaves all that iperf3 said in iperf3.json. Needs iperf3, ping, awk and sed.

peer=$(printf 'n%04d' $((MVPNET_WSIZE - 1)))
[ "$MVPNET_WSIZE" -gt 1 ] || { echo "iperf: it takes two guests: mpirun -n 2" >&2; exit 2; }

if ! pings=$(ping -c 20 -i 0.2 -q "$peer"); then
    echo "iperf: $peer does not answer: $pings" >&2
    exit 1
fi
echo "metric rtt_ms $(echo "$pings" | sed -n 's|.*= [0-9.]*/\([0-9.]*\)/.*|\1|p')"

# The server may be on its way still.
tries=20
until iperf3 --client "$peer" --time "$1" --json > iperf3.json; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] && grep -q "unable to connect" iperf3.json || { cat iperf3.json >&2; exit 1; }
    sleep 0.5
done

# number OBJECT KEY: from the summary at the end, where iperf3 prints a key a line
number() {
    awk -v object="\"$1\":" -v key="\"$2\":" '
        $1 == "\"end\":" { at_end = 1 }
        at_end && $1 == object { inside = 1 }
        inside && $1 == key { sub(/,$/, "", $2); print $2; exit }' iperf3.json
}
echo "metric mbit_s $(number sum_received bits_per_second | awk '{ printf "%.1f", $1 / 1e6 }')"
echo "metric retransmits $(number sum_sent retransmits)"
