#!/bin/sh
# Mount guest 0's folder and measure in it; usage: measure.sh SMALL_FILES MEGABYTES
# Prints metrics. Fails when what is read is not what was written.
set -eu
files=$1 megabytes=$2
own=/mnt/$(hostname)

mount_it() { mount -t nfs4 n0000:/ /mnt; }
seconds() { cut -d ' ' -f 1 /proc/uptime; }
# per AMOUNT BEGAN ENDED: how much in a second; a clock tick is the least that a time can be
rate() { awk -v amount="$1" -v began="$2" -v ended="$3" 'BEGIN { printf "%.2f", amount / ((ended - began) + 0.01) }'; }

mount_it
mkdir -p "$own"

began=$(seconds)
for number in $(seq "$files"); do
    echo "$number" > "$own/$number"
done
echo "metric small_files_s $(rate "$files" "$began" "$(seconds)")"

dd if=/dev/urandom of=/tmp/written bs=1M count="$megabytes" status=none
began=$(seconds)
dd if=/tmp/written of="$own/large" bs=1M conv=fsync status=none
echo "metric write_mb_s $(rate "$megabytes" "$began" "$(seconds)")"

umount /mnt # so that what is read comes from the server, and not from this guest's own cache
mount_it
began=$(seconds)
dd if="$own/large" of=/tmp/read bs=1M status=none
echo "metric read_mb_s $(rate "$megabytes" "$began" "$(seconds)")"

cmp /tmp/written /tmp/read
for number in $(seq "$files"); do
    [ "$(cat "$own/$number")" = "$number" ] || { echo "nfs: file $number is not what was written" >&2; exit 1; }
done
umount /mnt
