/**
 * Runs the guest that breaks virtio's rules (guest.c) on a machine with every device, and makes a
 * table of what came of it: `bun golden/conformance/table.ts` puts that into docs/virtio.md.
 */
import { closeSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Vm } from "../../src/index.ts";
import type { EngineName } from "../../src/vmm/engine.ts";
import { processLibrary, ptr } from "../../src/vmm/native.ts";
import { buildProgram } from "../guests/build.ts";

/** What came of a broken rule, by device. */
export type Outcomes = Map<string, Map<string, string>>;

export interface Conformance {
  outcomes: Outcomes;
  /** How the VM ended. */
  ending: string;
}

/**
 * The guest, built; its path. @param patience how many times it looks for an answer: a look takes
 * longer where KVM is emulated.
 */
export function buildGuest(patience = 200_000): string {
  const sources = ["guest", "machine", "driver", "requests", "transport", "rings", "devices"];
  const paths = sources.map((name) => join(import.meta.dir, `${name}.c`));
  const script = join(import.meta.dir, "link.ld");
  const words = [
    "-m32 -O1 -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables",
    `-mgeneral-regs-only -nostdlib -static -Wall -Wextra -DPATIENCE=${patience}`,
    `-Wl,-T,${script},--build-id=none ${paths.join(" ")}`,
  ];
  return buildProgram("conformance", words.join(" ").split(" "));
}

/** @param kernel the guest. */
export async function runConformance(kernel: string, engine: EngineName): Promise<Conformance> {
  const folder = mkdtempSync(join(tmpdir(), "conformance-"));
  const fds = new Int32Array(2);
  processLibrary().vmm_socketpair(0, ptr(fds));
  // Somebody at the other end takes what is sent.
  const bytes = new Uint8Array(70_000);
  const taking = setInterval(() => {
    while (Number(processLibrary().vmm_read(fds[1], ptr(bytes), bytes.length)) > 0);
  }, 1);
  try {
    const disk = join(folder, "disk.img");
    const disc = join(folder, "disc.iso");
    for (const path of [disk, disc]) writeFileSync(path, new Uint8Array(2 ** 20));
    await using vm = await Vm.start({
      name: "conformance",
      kernel,
      format: "multiboot",
      memory: "64M",
      engine,
      debugExit: true,
      reboot: false,
      disks: [{ path: disk, format: "raw" }],
      cdrom: disc,
      devices: ["balloon", "console"],
      shares: [{ path: folder, tag: "share" }],
      vsock: { cid: 3, path: join(folder, "vsock") },
      interfaces: [{ kind: "switch", mac: "fe:e1:bb:d1:00:01", locked: false, descriptor: fds[0] }],
    });
    let text = "";
    vm.console.follow((chunk) => {
      text += new TextDecoder().decode(chunk);
    });
    const timer = setTimeout(() => void vm.stop(), 120_000);
    const { kind, code } = await vm.ended;
    clearTimeout(timer);
    return { outcomes: parse(text), ending: `${kind} ${code}` };
  } finally {
    clearInterval(taking);
    closeSync(fds[1]);
    rmSync(folder, { recursive: true, force: true });
  }
}

function parse(text: string): Outcomes {
  const outcomes: Outcomes = new Map();
  for (const line of text.split("\n")) {
    const [, device, rule, outcome] = /^(\w+): (.+): ([A-Z]+)$/.exec(line.trim()) ?? [];
    if (device === undefined) continue;
    const rules = outcomes.get(device) ?? new Map<string, string>();
    rules.set(rule, outcome);
    outcomes.set(device, rules);
  }
  return outcomes;
}

/** Rules by rows, devices by columns, as Markdown. */
export function table(outcomes: Outcomes): string {
  const devices = [...outcomes.keys()].toSorted();
  const rules = [...new Set([...outcomes.values()].flatMap((one) => [...one.keys()]))];
  const common = rules.filter((rule) => devices.every((device) => has(outcomes, device, rule)));
  const lines = [
    `| a driver … | ${devices.join(" | ")} |`,
    `|---|${devices.map(() => "---").join("|")}|`,
    ...common.map(
      (rule) =>
        `| ${rule} | ${devices.map((device) => outcomes.get(device)?.get(rule)).join(" | ")} |`,
    ),
    "",
    "| device | a driver … | |",
    "|---|---|---|",
  ];
  for (const device of devices) {
    for (const [rule, outcome] of outcomes.get(device) ?? []) {
      if (!common.includes(rule)) lines.push(`| ${device} | ${rule} | ${outcome} |`);
    }
  }
  return `${lines.join("\n")}\n`;
}

function has(outcomes: Outcomes, device: string, rule: string): boolean {
  return outcomes.get(device)?.has(rule) === true;
}
