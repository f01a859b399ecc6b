// L1: the emulated host. A stock Linux kernel with kvm_amd, and an initramfs that
// finds the payload disk, runs one job in it and tells how that went.

import { readFileSync } from "node:fs";
import { guestFile } from "../golden/guests/guest.ts";
import { initramfs, prepare } from "../golden/guests/initramfs.ts";

const moduleFile = (name: string) => guestFile("linux-amd64", `modules/${name}.ko`);

/** What L1 can't do without. The names are those of the files. */
const wanted = ["kvm-amd", "virtio_pci", "virtio_blk", "virtio_console"];

/** Modules with what they depend on before them. Their names have - and _ for the same letter. */
function loadOrder(names: string[]): string[] {
  const order: string[] = [];
  const visit = (name: string) => {
    if (order.includes(name)) return;
    const module = readFileSync(moduleFile(name), "latin1");
    const depends = /\0depends=([^\0]*)\0/.exec(module)?.[1] ?? "";
    for (const other of depends.split(",").filter(Boolean)) visit(other);
    order.push(name);
  };
  names.forEach(visit);
  return order;
}

/**
 * The channels to L1 are virtio serial ports, clean of what the kernel says: 1 and 2
 * are the job's output, 3 is for `ready`, a sign of life now and then, and `exit N`.
 * A port can't be opened at once when its device is there. The end is a reset, which QEMU
 * is told not to do: nothing is shut down first.
 */
const init = `${prepare}
mkdir -p /dev/pts /dev/shm /job
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
for module in $(cat /modules/order); do insmod /modules/$module || echo "lab: no module $module"; done
for port in 1 2 3; do until [ -c /dev/vport0p$port ] && true 2>/dev/null >/dev/vport0p$port; do sleep 0.01; done; done
until [ -e /dev/vda ]; do sleep 0.01; done
exec 3>/dev/vport0p3
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
chroot /mnt /bin/sh /job/run 3>&- </dev/null >/job/out 2>/job/err
code=$?
kill $life
# A process that the job left behind may hold its output open.
for i in $(seq 50); do kill -0 $out $err 2>/dev/null || break; sleep 0.02; done
finish $code
`;

/** L1's own initramfs; the project and the job are appended to it. */
export function l1Initramfs(): Promise<Uint8Array> {
  const order = loadOrder(wanted);
  const files: Record<string, { data: Uint8Array | string; mode: number }> = {
    "modules/order": { data: order.map((name) => `${name}.ko\n`).join(""), mode: 0o644 },
  };
  for (const name of order)
    files[`modules/${name}.ko`] = { data: readFileSync(moduleFile(name)), mode: 0o644 };
  return initramfs({ init, files });
}
