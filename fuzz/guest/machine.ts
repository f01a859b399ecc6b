/**
 * A machine to fuzz: from a snapshot, or a kernel that is booted for it. Its time is virtual, and its
 * devices lead nowhere: disks are read and not written, networks are silent.
 */
import { closeSync, readSync } from "node:fs";
import type { EngineName } from "../../src/vmm/engine.ts";
import type { GuestMemory } from "../../src/vmm/memory.ts";
import { FileSource } from "../../src/vmm/snapshot/sources.ts";
import { RecordType } from "../../src/vmm/snapshot/format.ts";
import type { Point } from "../../src/vmm/point.ts";
import { hostBalloon } from "../../src/vmd/backend/balloon.ts";
import { DiscBackend } from "../../src/vmd/backend/cdrom.ts";
import { RepeatableRandom } from "../../src/vmd/backend/random.ts";
import { openBootFile, openBootFiles, openPlainly } from "../../src/vmd/boot-files.ts";
import { openDisk } from "../../src/vmd/disk/index.ts";
import type { DiskOption } from "../../src/vmd/disk-files.ts";
import type { VirtioBackends } from "../../src/vmd/machine.ts";
import { parseMac } from "../../src/vmd/net/mac.ts";
import { FrameQueue } from "../../src/vmd/recording/frame-queue.ts";
import { openSnapshot } from "../../src/vmd/snapshot/chain.ts";
import type { SnapshotConfig } from "../../src/vmd/snapshot/config.ts";
import { loadSnapshots } from "../../src/vmd/snapshot/load.ts";
import { quiesce } from "../../src/vmd/snapshot/save.ts";
import type { InputGate, Stop } from "../../src/vmd/vcpu.ts";
import { type LifeHost, VmLife } from "../../src/vmd/vm-life.ts";
import { checkVmOptions, type VcpuOptions } from "../../src/vmd/vm-options.ts";
import { OverlayDisk } from "./overlay-disk.ts";
import { FUZZ_PORT, FuzzPort } from "./port.ts";

/** Characters of what the guest printed that are kept. */
const PRINTED_MAX = 65_536;

/** A machine that can't be made, or not fuzzed: a sentence. */
export class FuzzError extends Error {
  override name = "FuzzError";
}

export interface MachineFile {
  /** A snapshot, or a kernel. */
  readonly path: string;
  /** Of a kernel's machine, bytes. */
  readonly memory?: number;
  readonly cmdline?: string;
  readonly initrd?: string;
  /** Of a kernel's machine: paths of images. */
  readonly disks?: readonly string[];
  readonly engine?: EngineName;
}

/** What a run may take besides the engine's budget. */
class Gate implements InputGate {
  readonly deadline = Infinity;
  /** Guest time at which it ends, ns. */
  ends = Infinity;
  readonly #now: () => number;
  #asleep = false;

  constructor(now: () => number) {
    this.#now = now;
  }

  admit(): Stop | undefined {
    if (this.#asleep) {
      this.#asleep = false;
      return { kind: "halt" };
    }
    return this.#now() >= this.ends ? { kind: "attention" } : undefined;
  }

  sleep(deadline: number): number {
    // Nothing would wake it any more.
    this.#asleep = deadline === Infinity;
    return Math.min(deadline, this.ends);
  }
}

export class FuzzMachine implements Disposable {
  readonly life: VmLife;
  readonly disks: OverlayDisk[] = [];
  readonly interfaces: FrameQueue[] = [];
  readonly port: FuzzPort;
  /** What the guest has printed since the point: COM1 and the debug ports. */
  printed = "";
  /** The run ends when the guest has printed this, which is forgotten then. */
  awaited: string | undefined;
  /** ... or any of these. */
  last: readonly string[] = [];
  point!: Point;
  readonly #gate: Gate;
  readonly #random = new RepeatableRandom();
  readonly #decoder = new TextDecoder("latin1");
  #atPoint = { random: 0, halted: false, input: new Uint8Array(0) as Uint8Array };

  /**
   * @param open makes its engine, image and chips
   * @param connect what its devices lead to
   */
  constructor(open: (host: LifeHost) => VmLife, connect: Connect) {
    this.life = open({
      output: (bytes) => this.#print(bytes),
      debug: (bytes) => this.#print(bytes),
      backends: (memory) => connect(this, memory, this.#random.fill),
    });
    const { machine, vcpu, engine } = this.life;
    this.port = new FuzzPort((event) => (machine.event ??= event));
    machine.ports.add(FUZZ_PORT, 4, this.port, 4);
    this.#gate = new Gate(() => engine.now());
    vcpu.gate = this.#gate;
  }

  /**
   * Runs on until something ends the run.
   * @param time guest time that this may take, ns
   * @param pending the last exit isn't answered yet
   */
  run(time: number, pending = false): Stop {
    this.#gate.ends = this.life.engine.now() + time;
    const stop = this.life.vcpu.run(pending);
    this.life.machine.flush();
    return stop;
  }

  #print(bytes: Uint8Array): void {
    const text = this.#decoder.decode(bytes);
    this.printed = (this.printed + text).slice(-PRINTED_MAX);
    const { machine } = this.life;
    // What was looked for may have begun in the piece before.
    const recent = this.printed.slice(-text.length - 100);
    if (this.awaited !== undefined && recent.includes(this.awaited)) {
      this.awaited = undefined;
      machine.event ??= { kind: "exit", code: 0 };
    } else if (this.last.some((one) => recent.includes(one))) {
      machine.event ??= { kind: "exit", code: 0 };
    }
  }

  /** Completes the instruction that an exit is inside of. */
  settle(): void {
    const { engine } = this.life;
    engine.run.immediateExit = true;
    engine.enter();
    engine.run.immediateExit = false;
  }

  /** The machine as it is becomes what each run begins with. @throws SnapshotError, NativeError */
  takePoint(): void {
    const { life } = this;
    const { engine, machine, vcpu } = life;
    quiesce(life);
    machine.clock.sample();
    machine.renew();
    for (const disk of this.disks) disk.keep();
    engine.setDeadline(machine.clock.deadline);
    this.#atPoint = {
      random: this.#random.state,
      halted: vcpu.halted,
      input: machine.hostState.input,
    };
    this.point = engine.takePoint();
    this.rewind();
  }

  /** Devices and memory go back to the point, when a run has reached the devices. */
  rewind(): void {
    const { machine, vcpu } = this.life;
    const { random, halted, input } = this.#atPoint;
    for (const disk of this.disks) disk.rewind();
    for (const network of this.interfaces) network.stop();
    this.#random.state = random;
    machine.console.clear();
    machine.restore(() => this.point.reset(), { input });
    machine.event = undefined;
    machine.clock.invalidate();
    vcpu.halted = halted;
    vcpu.stoppedEarly = false;
    this.printed = "";
  }

  [Symbol.dispose](): void {
    this.life[Symbol.dispose]();
  }
}

type Connect = (
  fuzzed: FuzzMachine,
  memory: GuestMemory,
  random: (into: Uint8Array) => void,
) => VirtioBackends;
/** @throws FuzzError, SnapshotError, FileError, DiskError, EngineError, NativeError, VmError */
export function openMachine(file: MachineFile): FuzzMachine {
  if (!isSnapshot(file.path)) return booted(file);
  if (file.disks !== undefined) throw new FuzzError(`${file.path}: a snapshot has its own disks`);
  return restored(file);
}

function isSnapshot(path: string): boolean {
  const { descriptor } = openBootFile(path, openPlainly);
  const type = new Uint32Array(1);
  try {
    readSync(descriptor, type, 0, 4, 0);
  } finally {
    closeSync(descriptor);
  }
  return type[0] === RecordType.CONFIG;
}

function booted({ path, memory, cmdline, initrd, disks, engine }: MachineFile): FuzzMachine {
  const options = checkVmOptions({
    name: "fuzz",
    kernel: path,
    memory,
    cmdline,
    initrd,
    virtualTime: (engine ?? "unicorn") === "unicorn",
  });
  return new FuzzMachine(
    (host) => VmLife.boot(engine ?? "unicorn", options, openBootFiles(options), host),
    (fuzzed, _, random) => {
      return {
        random,
        interfaces: [],
        disks: attach(
          fuzzed,
          disks?.map((image) => ({ path: image })),
        ),
      };
    },
  );
}

function restored({ path, engine = "unicorn" }: MachineFile): FuzzMachine {
  const { config, inputs } = openSnapshot(path);
  try {
    const what = unusable(config);
    if (what !== undefined) throw new FuzzError(`${path}: ${what}`);
    const options: VcpuOptions = checkVmOptions({
      ...config.options,
      kernel: "-",
      disks: [],
      cdrom: undefined,
      virtualTime: engine === "unicorn",
    } as never);
    const sources = inputs.map(({ descriptor, verify }) => {
      return { source: new FileSource(descriptor), file: descriptor, verify };
    });
    return new FuzzMachine(
      (host) =>
        VmLife.restore(
          engine,
          options,
          {
            rom: config.rom,
            inputs: (image) => loadSnapshots(image, sources),
            description: config.boot,
            cpuid: config.cpuid.map(([leaf, subleaf, flags, eax, ebx, ecx, edx]) => {
              return { leaf, subleaf, flags, eax, ebx, ecx, edx };
            }),
            tscKhz: config.tscKhz || undefined,
            anyClock: true,
          },
          host,
        ),
      (fuzzed, memory, random) => backendsOf(config, fuzzed, memory, random),
    );
  } finally {
    for (const { descriptor } of inputs) closeSync(descriptor);
  }
}

function attach(fuzzed: FuzzMachine, disks: readonly DiskOption[] = []): VirtioBackends["disks"] {
  return disks.map(({ path, format, readOnly = false }, place) => {
    const backend = new OverlayDisk(openDisk(path, { format, readOnly: true }), readOnly);
    fuzzed.disks.push(backend);
    return { backend, id: `disk${place}` };
  });
}

/** What of a snapshot's machine has no likeness here. */
function unusable({ shares = [], vsock }: SnapshotConfig): string | undefined {
  if (shares.length > 0) return "its machine has shares, which can't be fuzzed with";
  if (vsock !== undefined) return "its machine has a socket device, which can't be fuzzed with";
  return undefined;
}

function backendsOf(
  { options, interfaces }: SnapshotConfig,
  fuzzed: FuzzMachine,
  memory: GuestMemory,
  random: (into: Uint8Array) => void,
): VirtioBackends {
  const { disks = [], cdrom, devices = [] } = options;
  fuzzed.interfaces.push(...interfaces.map(() => new FrameQueue(false)));
  return {
    random,
    interfaces: interfaces.map(({ mac, locked, mtu }, place) => {
      const backend = fuzzed.interfaces[place];
      return { backend, mac: parseMac(mac) as Uint8Array, locked, mtu };
    }),
    disks: attach(fuzzed, disks),
    cdrom:
      cdrom === undefined
        ? undefined
        : new DiscBackend(
            new OverlayDisk(openDisk(cdrom, { format: "raw", readOnly: true }), true),
          ),
    balloon: devices.includes("balloon") ? hostBalloon(memory) : undefined,
    console: devices.includes("console") ? { output: () => {}, blocked: () => false } : undefined,
  };
}
