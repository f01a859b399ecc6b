/** The machine of a recording, with devices that lead nowhere: no file and no network is needed. */
import type { MachineImage } from "../../vmm/image.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import { hostBalloon } from "../backend/balloon.ts";
import { DiscBackend } from "../backend/cdrom.ts";
import { RepeatableRandom } from "../backend/random.ts";
import type { VirtioBackends } from "../machine.ts";
import { parseMac } from "../net/mac.ts";
import type { LoadedState, SnapshotInput } from "../snapshot/load.ts";
import { VmLife } from "../vm-life.ts";
import { checkVmOptions, type VcpuOptions, VmError, type VmOptions } from "../vm-options.ts";
import { FrameQueue } from "./frame-queue.ts";
import { takeDirty } from "./checkpoint.ts";
import type { Player } from "./player.ts";
import { RecordingError, type RecordingReader } from "./recording-reader.ts";
import { DiskContents, ReplayedDisk } from "./replayed-disk.ts";

/** Who follows what the guest prints. */
export interface ReplayOutput {
  /** COM1. */
  readonly console?: (bytes: Uint8Array) => void;
  readonly virtioConsole?: (bytes: Uint8Array) => void;
}

/** What of the machine's devices lies in no register. */
export interface BackendState {
  readonly random: number;
  readonly disks: readonly { contents: DiskContents; requests: number }[];
}

export class ReplayedMachine implements Disposable {
  readonly life: VmLife;
  readonly #random = new RepeatableRandom();
  readonly #disks: ReplayedDisk[];
  readonly #interfaces: FrameQueue[];

  /** @throws RecordingError, EngineError, NativeError */
  constructor(
    reader: RecordingReader,
    player: Player,
    output: ReplayOutput,
    inputs: readonly SnapshotInput[] | ((image: MachineImage) => LoadedState),
  ) {
    const { machine, config } = reader;
    const options = machineOptions(reader);
    this.#disks = config.disks.map((disk, place) => new ReplayedDisk(disk, place, player));
    this.#interfaces = config.interfaces.map(({ offloads }) => new FrameQueue(offloads));
    this.life = reader.read(() =>
      VmLife.restore(
        "unicorn",
        options,
        {
          rom: machine.rom,
          inputs,
          // As the recorder did it before the first instruction, and at each checkpoint.
          applied: takeDirty,
          description: machine.boot,
          cpuid: machine.cpuid.map(([leaf, subleaf, flags, eax, ebx, ecx, edx]) => {
            return { leaf, subleaf, flags, eax, ebx, ecx, edx };
          }),
          tscKhz: machine.tscKhz || undefined,
        },
        {
          output: (bytes) => output.console?.(bytes),
          debug: () => {},
          backends: (memory) => this.#backends(reader, memory, output),
        },
      ),
    );
    player.begin(this.life, this.#interfaces);
  }

  #backends(
    { machine, config }: RecordingReader,
    memory: GuestMemory,
    output: ReplayOutput,
  ): VirtioBackends {
    const { devices = [], disks = [], cdrom } = machine.options;
    const expected = disks.length + (cdrom === undefined ? 0 : 1);
    if (
      config.disks.length !== expected ||
      config.interfaces.length !== machine.interfaces.length
    ) {
      throw new RecordingError("its devices are not those of its machine");
    }
    return {
      random: this.#random.fill,
      interfaces: machine.interfaces.map(({ mac, locked, mtu, limits }, place) => {
        const backend = this.#interfaces[place];
        return { backend, mac: parseMac(mac) as Uint8Array, locked, mtu, limits };
      }),
      disks: disks.map(({ limits }, place) => {
        return { backend: this.#disks[place], id: `disk${place}`, limits };
      }),
      cdrom: cdrom === undefined ? undefined : new DiscBackend(this.#disks[disks.length]),
      balloon: devices.includes("balloon") ? hostBalloon(memory) : undefined,
      console: devices.includes("console")
        ? { output: (bytes) => output.virtioConsole?.(bytes), blocked: () => false }
        : undefined,
    };
  }

  get state(): BackendState {
    return {
      random: this.#random.state,
      disks: this.#disks.map(({ contents, requests }) => {
        return { contents: new DiskContents(contents), requests };
      }),
    };
  }

  set state({ random, disks }: BackendState) {
    this.#random.state = random;
    disks.forEach(({ contents, requests }, place) => {
      this.#disks[place].contents = new DiskContents(contents);
      this.#disks[place].requests = requests;
    });
  }

  [Symbol.dispose](): void {
    this.life[Symbol.dispose]();
  }
}

function machineOptions({ machine, path }: RecordingReader): VcpuOptions {
  const { disks: _, ...options } = machine.options;
  if (options.virtualTime !== true) {
    throw new RecordingError(`${path}: its machine has real time, so it can't be run again`);
  }
  try {
    // What was booted needs no name here.
    return checkVmOptions({ ...(options as VmOptions), kernel: "-", engine: "unicorn" });
  } catch (error) {
    if (!(error instanceof VmError)) throw error;
    throw new RecordingError(`${path}: ${error.message}`);
  }
}
