/**
 * From the command to the first line of userspace, wall time: what a user waits for, the start of
 * all programs included. Either side boots the same kernel file with the same initramfs, memory
 * and command line, its console a serial port whose output goes to a pipe.
 *
 * - unicorn_over_qemu_tcg: Debian's bzImage with its full log, on the Unicorn engine against QEMU's
 *   TCG as -M pc.
 * - lab_kvm_over_qemu_microvm, lab_kvm_over_qemu_pc: in the lab, on its KVM: vmlinux against QEMU
 *   microvm, bzImage against -M pc; see lab-boot.ts.
 */
import { linuxAmd64 } from "../golden/guests/index.ts";
import { labMissing, runInLab } from "../lab/index.ts";
import { probe } from "../src/vmm/engine.ts";
import type { LabBoots } from "./lab-boot.ts";
import { type Benchmark, type Measurement, pairs, row } from "./lib.ts";
import { BARE, QEMU, qemuMissing } from "./qemu.ts";
import { bootTime, VCTL } from "./watched.ts";

function unicornMissing(): string | undefined {
  const { available, why } = probe("unicorn");
  return available ? undefined : `${why}.`;
}

const software: Measurement = {
  rows: ["unicorn_over_qemu_tcg", "unicorn_s", "qemu_tcg_s"],
  rounds: 5,
  missing: () => unicornMissing() ?? qemuMissing() ?? linuxAmd64.missing(),
  async run(rounds) {
    const { cmdline, memory } = linuxAmd64;
    const kernel = await linuxAmd64.kernel();
    const initrd = await linuxAmd64.initrd!();
    const files = ["-b", kernel, "-i", initrd, "-a", cmdline, "-m", memory];
    const qemu = ["-accel", "tcg", "-M", "pc", "-m", memory, ...BARE, "-serial", "stdio"];
    const { a, b, ratios } = await pairs(
      rounds,
      () => bootTime([...VCTL, "start", "-c", "--engine", "unicorn", ...files, "bench"]),
      () => bootTime([QEMU, ...qemu, "-kernel", kernel, "-initrd", initrd, "-append", cmdline]),
    );
    return [
      row("unicorn_over_qemu_tcg", "ratio", ratios),
      row("unicorn_s", "s", a),
      row("qemu_tcg_s", "s", b),
    ];
  },
};

const lab: Measurement = {
  rows: [
    "lab_kvm_over_qemu_microvm",
    "lab_kvm_over_qemu_pc",
    "lab_kvm_vmlinux_s",
    "lab_qemu_microvm_s",
    "lab_kvm_bzimage_s",
    "lab_qemu_pc_s",
  ],
  rounds: 3,
  missing: () => labMissing() ?? qemuMissing(),
  async run(rounds) {
    const { code, stdout, stderr } = await runInLab(["bun", "bench/lab-boot.ts", `${rounds}`], {
      qemu: true,
      timeout: 60 + 180 * rounds,
    });
    if (code !== 0) throw new Error(`the boots in the lab failed:\n${stderr.trim()}`);
    const boots: LabBoots = JSON.parse(stdout);
    return [
      row("lab_kvm_over_qemu_microvm", "ratio", boots.microvm.ratios),
      row("lab_kvm_over_qemu_pc", "ratio", boots.pc.ratios),
      row("lab_kvm_vmlinux_s", "s", boots.microvm.a),
      row("lab_qemu_microvm_s", "s", boots.microvm.b),
      row("lab_kvm_bzimage_s", "s", boots.pc.a),
      row("lab_qemu_pc_s", "s", boots.pc.b),
    ];
  },
};

export const boot: Benchmark = {
  name: "boot",
  about: "from the command to userspace, beside QEMU",
  measurements: [software, lab],
};
