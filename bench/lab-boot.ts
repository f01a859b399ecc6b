/**
 * The boots that boot.ts wants of the lab; runs there, and prints them as JSON.
 *
 * The command line is short of messages, since each character is two exits there, and has
 * "noxsave": SVM as TCG emulates it doesn't intercept XSETBV, of which the kernel would complain on
 * 70 lines. QEMU has KVM's own interrupt controller and timer, as it does by default.
 */
import { initramfsFile, linuxAmd64, linuxAmd64Vmlinux, shell } from "../golden/guests/index.ts";
import { type Pairs, pairs } from "./lib.ts";
import { BARE, QEMU } from "./qemu.ts";
import { bootTime, VCTL } from "./watched.ts";

/** Seconds of ours (a) and QEMU's (b). */
export interface LabBoots {
  microvm: Pairs;
  pc: Pairs;
}

const CMDLINE = "console=ttyS0 quiet noxsave";
const MEMORY = "256M";

async function measure(rounds: number): Promise<LabBoots> {
  const initrd = await initramfsFile("shell-amd64", { init: shell });
  const vmlinux = await linuxAmd64Vmlinux.kernel();
  const bzImage = await linuxAmd64.kernel();
  const ours = (kernel: string) =>
    bootTime([
      ...VCTL,
      ...`start -c --engine kvm -m ${MEMORY} -b ${kernel} -i ${initrd} bench -a`.split(" "),
      CMDLINE,
    ]);
  const qemu = (machine: string, kernel: string) =>
    bootTime([
      QEMU,
      ...`-accel kvm -cpu host -M ${machine} -m ${MEMORY} -serial stdio`.split(" "),
      ...BARE,
      ...`-kernel ${kernel} -initrd ${initrd} -append`.split(" "),
      CMDLINE,
    ]);
  // What is read from the disk first is read for everybody.
  await ours(vmlinux);
  await qemu("microvm", vmlinux);
  await ours(bzImage);
  return {
    microvm: await pairs(
      rounds,
      () => ours(vmlinux),
      () => qemu("microvm", vmlinux),
    ),
    pc: await pairs(
      rounds,
      () => ours(bzImage),
      () => qemu("pc", bzImage),
    ),
  };
}

if (import.meta.main) console.log(JSON.stringify(await measure(Number(process.argv[2]))));
