#!/bin/busybox sh
# The initial RAM disk: the modules of the disk, then the root file system on it. Everything else is built in.
busybox mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
  busybox insmod /modules/$module.ko
done
tries=0
while ! busybox test -b /dev/vdb; do
  tries=$((tries + 1)) && busybox test $tries -lt 1000 || exit 1
  busybox usleep 20000
done
busybox mount -t ext4 /dev/vdb /root
busybox mount --move /dev /root/dev
exec busybox switch_root /root /sbin/init
