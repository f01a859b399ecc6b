// L1: the emulated host. A stock Linux kernel with kvm_amd, and an initramfs that
// finds the payload disk, runs one job in it and tells how that went.

import { initramfs, prepare } from "../golden/guests/initramfs.ts";
import { moduleFiles } from "../golden/guests/modules.ts";

/** What L1 can't do without. */
const wanted = ["kvm_amd", "virtio_pci", "virtio_blk", "virtio_console"];
/** What vmd's networks are made of: taps, bridges, and nftables with NAT. */
const forNetworks = [
  "tun",
  "bridge",
  "nf_tables",
  "nft_ct",
  "nft_nat",
  "nft_masq",
  "nft_chain_nat",
];

/**
 * The channels to L1 are virtio serial ports, clean of what the kernel says: 1 and 2
 * are the job's output, 3 is for `ready`, a sign of life now and then, and `exit N`.
 * A port can't be opened at once when its device is there. The end is a reset, which QEMU
 * is told not to do: nothing is shut down first. The job's root is its mount namespace's own:
 * below a chroot nobody can make user namespaces, as passt does.
 */
const init = (load: string) => `${prepare}
mkdir -p /dev/pts /dev/shm /job
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
${load}chmod 666 /dev/kvm
for port in 1 2 3; do until [ -c /dev/vport0p$port ] && true 2>/dev/null >/dev/vport0p$port; do sleep 0.01; done; done
until [ -e /dev/vda ]; do sleep 0.01; done
exec 3>/dev/vport0p3
enter='cd /mnt && mount -o move . / && exec chroot . /bin/sh /job/run'
finish() { echo "exit $1" >&3; exec 3>&-; echo b >/proc/sysrq-trigger; sleep 1; poweroff -f; }
mount -t ext4 /dev/vda /mnt || finish 126
for folder in proc sys dev job vmd; do mount -o rbind /$folder /mnt/$folder; done
mount -t tmpfs tmpfs /mnt/tmp
for folder in node_modules .cache; do
  mkdir -p /vmd/$folder
  mount -o bind /mnt/project/$folder /mnt/vmd/$folder
done
mkfifo /job/out /job/err
cat /job/out >/dev/vport0p1 3>&- & out=$!
cat /job/err >/dev/vport0p2 3>&- & err=$!
while sleep 5; do echo alive; done >&3 & life=$!
echo "ready $(cut -d' ' -f1 /proc/uptime)" >&3
busybox unshare -m sh -c "$enter" 3>&- </dev/null >/job/out 2>/job/err
code=$?
kill $life
# A process that the job left behind may hold its output open.
for i in $(seq 50); do kill -0 $out $err 2>/dev/null || break; sleep 0.02; done
finish $code
`;

/** passt wants a way out; this one leads nowhere. */
const wayOut = `ip link set lo up
ip link add outside type bridge
ip addr add 192.0.2.2/24 dev outside
ip link set outside up
ip route add default via 192.0.2.1
`;

/** L1's own initramfs; the project and the job are appended to it. */
export function l1Initramfs({
  networks = false,
}: { networks?: boolean } = {}): Promise<Uint8Array> {
  const names = networks ? [...wanted, ...forNetworks] : wanted;
  const { files, load } = moduleFiles("linux-amd64", ...names);
  return initramfs({ init: init(networks ? load + wayOut : load), files });
}
