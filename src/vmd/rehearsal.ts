/**
 * What a process does that waits for a VM: it restores and runs a small machine of its own. Code that
 * ran once is parsed, its libraries are loaded and its pages are there, which otherwise takes longer
 * than the restore itself.
 */
import { closeSync, fstatSync, writeSync } from "node:fs";
import type { EngineName } from "../vmm/engine.ts";
import { check, hostLibrary } from "../vmm/native.ts";
import { PAGE, RecordType } from "../vmm/snapshot/format.ts";
import { PageSet } from "../vmm/snapshot/page-set.ts";
import { openProgress, tellProgress } from "../vmm/snapshot/progress.ts";
import { descriptorSink } from "../vmm/snapshot/sources.ts";
import { SnapshotWriter } from "../vmm/snapshot/writer.ts";
import { MachineImage } from "../vmm/image.ts";
import { HostDevices } from "./backend/devices.ts";
import { memoryRanges } from "./machine.ts";
import { loadSnapshots } from "./snapshot/load.ts";
import { openInputs, restoreLife, waitFor } from "./snapshot/restore-life.ts";
import { machineConfig, quiesce, saveMemory, saveState } from "./snapshot/save.ts";
import { type LifeHost, VmLife } from "./vm-life.ts";
import type { RestoreDescription } from "./vm-messages.ts";
import { checkVmOptions, type VcpuOptions } from "./vm-options.ts";

const MEMORY = 2 ** 20;
const FIRMWARE = 4096;
/** What a copy waits for is done so often: then it is compiled. */
const OFTEN = 40;
/** Exits of each of the two machines. */
const EXITS = 200;
/**
 * Programs timer and interrupt controllers, the RTC and the UART, then writes the UART's scratch
 * register and reads the timer for ever.
 */
const CODE = Uint8Array.fromHex(
  [
    "b0 11 e6 20 e6 a0 b0 20 e6 21 b0 28 e6 a1 b0 04 e6 21 b0 02 e6 a1 b0 01 e6 21 e6 a1",
    "b0 34 e6 43 b0 00 e6 40 e6 40",
    "b0 0b e6 70 e4 71",
    "ba fb 03 b0 83 ee b0 03 ee",
    "31 c0 8e d8",
    "ff 06 00 05 ba ff 03 ee ba fd 03 ec e4 40 eb f0",
  ]
    .join("")
    .replaceAll(" ", ""),
);
/** At 16 bytes before the end: a jump to the beginning. */
const RESET_VECTOR = [0xe9, 0x0d, 0xf0];

function firmware(): number {
  const bytes = new Uint8Array(FIRMWARE).fill(0xf4);
  bytes.set(CODE);
  bytes.set(RESET_VECTOR, FIRMWARE - 16);
  const file = check("memory for a rehearsal", hostLibrary().vmm_memory_file(0));
  writeSync(file, bytes);
  return file;
}

function run(life: VmLife): number {
  life.vcpu.limit = EXITS;
  life.vcpu.run();
  life.machine.flush();
  return life.vcpu.exits;
}

/** Boots a machine, and writes its snapshot, and what changed since as a template has it. */
function record(
  engine: EngineName,
  options: VcpuOptions,
  host: LifeHost,
  [file, later]: readonly [number, number],
): RestoreDescription {
  const descriptor = firmware();
  try {
    const kernel = { path: options.kernel, descriptor };
    using life = VmLife.boot(engine, options, { kernel }, host);
    run(life);
    quiesce(life);
    const config = machineConfig(life);
    const changed = new PageSet(life.image.memory.ranges);
    for (let page = 0; page < MEMORY / PAGE; page += 16) changed.add(page * PAGE, PAGE);
    for (const [out, what] of [
      [file, undefined],
      [later, changed],
    ] as const) {
      const writer = new SnapshotWriter(descriptorSink(out, waitFor));
      writer.json(RecordType.CONFIG, config);
      saveMemory(life, writer, { pagemap: -1, changed: what, template: true });
      saveState(life, writer);
      check("memory for a rehearsal", hostLibrary().vmm_memory_seal(out));
    }
    const input = { stream: false, verify: false };
    return { ...config, inputs: [input, { ...input, eager: true }] };
  } finally {
    closeSync(descriptor);
  }
}

/** @returns a socket that tells all of a file. */
function whole(file: number): number {
  const [hears, tells] = openProgress();
  tellProgress(tells, fstatSync(file).size);
  closeSync(tells);
  return hears;
}

/** @returns exits of the machine that was restored. @throws what isExpected knows */
export function rehearse(engine: EngineName): number {
  const options = checkVmOptions({ name: "rehearsal", kernel: "firmware", memory: MEMORY });
  const devices = new HostDevices({
    ...{ shares: [], interfaces: [], disks: [], cdrom: undefined, vsock: undefined },
    ...{ balloon: false, console: undefined, recording: undefined, repeatable: false },
    watch: () => {},
    next: () => -1,
    failed: () => {},
  });
  const host: LifeHost = {
    output: () => {},
    debug: () => {},
    backends: (memory) => devices.connect(memory),
    hostTime: Date.now,
  };
  const file = () => check("memory for a rehearsal", hostLibrary().vmm_memory_file(0));
  const files = [file(), file()] as const;
  const description = record(engine, options, host, files);
  using image = new MachineImage(memoryRanges(options.memory, description.rom));
  for (let i = 0; i < OFTEN; i++) {
    const hears = whole(files[1]);
    loadSnapshots(
      image,
      openInputs(description, files, { hears, wait: () => true, memory: MEMORY }),
    );
    closeSync(hears);
  }
  using life = restoreLife(engine, options, description, host, files);
  life.machine.syncTime();
  return run(life);
}
