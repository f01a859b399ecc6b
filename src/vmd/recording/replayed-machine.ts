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
import { imageHash } from "./state-hash.ts";

/** Who follows what the guest prints. */
export interface ReplayOutput {
  /** COM1. */
  readonly console?: (bytes: Uint8Array) => void;
  readonly virtioConsole?: (bytes: Uint8Array) => void;
}

/** What of the machine's devices lies in no register. */
export interface BackendState {
  readonly random: number;
  /** Blocks of code that machines before a reset entered. */
  readonly blocks: number;
  readonly disks: readonly { contents: DiskContents; requests: number }[];
}

/** What a machine goes on from. */
export type MachineInputs = readonly SnapshotInput[] | ((image: MachineImage) => LoadedState);

// struct vmm_clock
const BLOCKS = 16;

export class ReplayedMachine implements Disposable {
  life: VmLife;
  readonly #reader: RecordingReader;
  readonly #player: Player;
  readonly #output: ReplayOutput;
  #random!: RepeatableRandom;
  #disks!: ReplayedDisk[];
  #interfaces!: FrameQueue[];
  #blocks = 0;

  /** @throws RecordingError, EngineError, NativeError */
  constructor(
    reader: RecordingReader,
    player: Player,
    output: ReplayOutput,
    inputs: MachineInputs,
  ) {
    this.#reader = reader;
    this.#player = player;
    this.#output = output;
    this.life = this.#begin(inputs);
  }

  /** Blocks of translated code that were entered. */
  get blocks(): number {
    return this.#blocks + Number(this.life.image.clock.getBigUint64(BLOCKS, true));
  }

  /** ... by machines before the last reset. */
  get blocksBefore(): number {
    return this.#blocks;
  }

  /**
   * The guest has reset the machine: the next one begins, as it did then.
   * @param compare whether the one that is gone must be the recorded one to the last bit
   * @throws RecordingError, Divergence
   */
  reset(compare: boolean, inputs?: MachineInputs): void {
    const { life, blocks } = this;
    const { disks } = this.state;
    const { exits } = life.vcpu;
    life.machine.flush();
    const { image } = this.#reader.end(this.#player.reset());
    if (compare && image !== imageHash(life))
      this.#player.diverged("the image at the reset differs");
    life[Symbol.dispose]();
    this.life = this.#begin(inputs ?? [this.#reader.snapshot]);
    this.life.vcpu.exits = exits;
    this.state = { random: this.#random.state, disks, blocks };
  }

  #begin(inputs: MachineInputs): VmLife {
    const { config } = this.#reader;
    this.#random = new RepeatableRandom();
    this.#disks = config.disks.map((disk, place) => new ReplayedDisk(disk, place, this.#player));
    this.#interfaces = config.interfaces.map(({ offloads }) => new FrameQueue(offloads));
    const life = this.#make(inputs);
    this.#player.begin(life, this.#interfaces);
    return life;
  }

  #make(inputs: MachineInputs): VmLife {
    const reader = this.#reader;
    const { machine } = reader;
    const options = machineOptions(reader);
    return reader.read(() =>
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
          output: (bytes) => this.#output.console?.(bytes),
          debug: () => {},
          backends: (memory) => this.#backends(memory),
        },
      ),
    );
  }

  #backends(memory: GuestMemory): VirtioBackends {
    const { machine, config, path } = this.#reader;
    const { devices = [], disks = [], cdrom } = machine.options;
    const expected = disks.length + (cdrom === undefined ? 0 : 1);
    if (
      config.disks.length !== expected ||
      config.interfaces.length !== machine.interfaces.length
    ) {
      throw new RecordingError(`${path}: its devices are not those of its machine`);
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
        ? { output: (bytes) => this.#output.virtioConsole?.(bytes), blocked: () => false }
        : undefined,
    };
  }

  get state(): BackendState {
    return {
      random: this.#random.state,
      blocks: this.#blocks,
      disks: this.#disks.map(({ contents, requests }) => {
        return { contents: new DiskContents(contents), requests };
      }),
    };
  }

  set state({ random, blocks, disks }: BackendState) {
    this.#random.state = random;
    this.#blocks = blocks;
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
