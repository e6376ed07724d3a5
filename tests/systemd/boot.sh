#!/bin/bash
# Boots systemd on a throw-away copy of this host's root, in namespaces of its own: boot.sh DIRECTORY CHECKOUT
# Nothing of the host is changed: writes go to a tmpfs, sysctls are read-only, and none of the host's services start.
set -eu
work=$1 checkout=$2 root=$1/root
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
mkdir -p "$root$checkout" && mount --bind "$checkout" "$root$checkout" && mount -o remount,bind,ro "$root$checkout"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys" && mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
  mknod -m 666 "$root/dev/$name" c $(stat -c '0x%t 0x%T' "/dev/$name")
done
mkdir "$root/dev/pts" "$root/dev/shm" && mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx" && ln -s /proc/self/fd "$root/dev/fd"
for directory in run tmp etc/systemd/system var/log/journal; do
  mkdir -p "$root/$directory" && mount -t tmpfs tmpfs "$root/$directory"
done
chmod 1777 "$root/tmp"
mkdir "$root/run/host"
cd "$root" && pivot_root . run/host && umount -l run/host
exec env -i container=attestd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=multi-user.target < /dev/null
