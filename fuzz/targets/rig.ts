/** A whole classic machine for targets: as after power-on for each input, and judged afterwards. */
import { ManualTime } from "../../src/vmm/clock.ts";
import { MachineImage } from "../../src/vmm/image.ts";
import type { GuestMemory } from "../../src/vmm/memory.ts";
import { VirtioRegisters, type VirtioRegisterSet } from "../../src/vmd/virtio/registers.ts";
import { RepeatableRandom } from "../../src/vmd/backend/random.ts";
import { ClassicMachine, memoryRanges, type VirtioBackends } from "../../src/vmd/machine.ts";
import { Ns8250Registers } from "../../src/vmd/chips/index.ts";
import { Status } from "../../src/vmd/virtio/transport.ts";
import type { Size } from "../../src/vmd/device.ts";
import { SnapshotError } from "../../src/vmm/snapshot/format.ts";
import type { Choices } from "../own/choices.ts";
import { forget, refill, uncounted } from "../own/counters.ts";
import { must, Wrong } from "../own/target.ts";

/** The driver's rings and buffers, and all of RAM; bytes. */
export const DRIVER_BASE = 0x100000;
export const DRIVER_SIZE = 0x40000;
export const RAM = DRIVER_BASE + DRIVER_SIZE + 0x10000;
const PAGE = 4096;
/** Bytes of each of COM1's FIFOs. */
const FIFO = 16;
/** Queues that a device may have. */
const QUEUES = 8;
const EPOCH = Date.UTC(2026, 0, 2, 3, 4, 5);
/** A read of the device's that the guest can be ahead of has no more bytes. */
const JUST_IN_TIME_MAX = 64;
/** Accesses to guest memory in one piece of work: more would be work without a bound. */
const ACCESSES_MAX = 300_000;

export type RigBackends = Partial<Omit<VirtioBackends, "random">>;

export class Rig {
  readonly image = new MachineImage(memoryRanges(RAM, undefined));
  readonly memory: GuestMemory = this.image.memory;
  readonly time = new ManualTime();
  readonly machine: ClassicMachine;
  /** Of each virtio device, in the order of the bus. */
  readonly virtio: readonly VirtioRegisterSet[];
  readonly #random = new RepeatableRandom();
  readonly #seed = this.#random.state;
  readonly #new: Uint8Array;
  /** COM1's reader takes nothing. */
  blocked = false;
  readonly #dirty = new Uint8Array(RAM / PAGE);
  readonly #com1: ReturnType<typeof Ns8250Registers.bind>;
  /** Registers that hold doubles. */
  readonly #numbers: readonly {
    readonly name: string;
    readonly values: Float64Array;
    readonly finite: boolean;
  }[];
  readonly #ram: readonly { readonly base: number; readonly bytes: Uint8Array }[];
  #accesses = 0;
  /** Where the guest's next bytes come from, and how many reads of a device's it is ahead of. */
  #choices: Choices | undefined;
  #ahead = 0;
  #from = 0;
  #skip = 0;

  constructor(backends: (memory: GuestMemory) => RigBackends = () => ({})) {
    this.machine = new ClassicMachine(this.image, this.time, {
      memory: RAM,
      epoch: EPOCH,
      debugExit: true,
      output: () => {},
      outputBlocked: () => this.blocked,
      debug: () => {},
      backends: (memory) => ({
        random: (into) => uncounted(() => this.#random.fill(into)),
        interfaces: [],
        disks: [],
        ...backends(memory),
      }),
    });
    this.time.clock = this.machine.clock;
    this.virtio = this.image.blocks
      .filter(({ layout }) => layout.name === VirtioRegisters.name)
      .map(({ offset }) => VirtioRegisters.bind(this.#buffer, offset));
    const com1 = this.image.blocks.find(({ layout }) => layout.name === Ns8250Registers.name);
    this.#com1 = Ns8250Registers.bind(this.#buffer, com1?.offset);
    this.#numbers = this.image.blocks.flatMap(({ layout, offset }) => {
      const finite = layout.name !== "clock" && layout.name !== "rate-limit";
      return layout.fields
        .filter(({ type }) => type === "f64")
        .map(({ name, count, offset: at }) => ({
          name: `${layout.name}.${name}`,
          values: new Float64Array(this.#buffer, offset + at, Math.max(1, count)),
          finite,
        }));
    });
    this.#ram = this.memory.ranges.map(({ base, size }) => {
      const [bytes] = this.memory.bytes(base, size);
      return { base, bytes };
    });
    this.machine.reset();
    this.#new = this.image.state.slice();
    this.memory.observeWrites((address, length) => {
      this.#count();
      this.#dirty.fill(1, Math.floor(address / PAGE), Math.ceil((address + length) / PAGE));
    });
    this.memory.observeReads((address, length) => {
      this.#count();
      const meant = address >= this.#from && length <= JUST_IN_TIME_MAX;
      if (this.#ahead > 0 && meant && this.#skip-- <= 0) this.#writeAhead(address, length);
    });
  }

  get #buffer(): ArrayBuffer {
    return this.image.state.buffer as ArrayBuffer;
  }

  #count(): void {
    if (++this.#accesses > ACCESSES_MAX) throw new Wrong("work without a bound on guest memory");
  }

  /** As after power-on, memory included. */
  reset(choices: Choices): void {
    this.#ahead = 0;
    this.#accesses = 0;
    this.blocked = false;
    this.time.time = 0;
    this.machine.reset();
    this.image.state.set(this.#new);
    this.machine.event = undefined;
    this.machine.clock.rearmed = true;
    // Whatever is left of the last input goes nowhere.
    this.machine.console.flush();
    this.machine.console.serve({ receive: () => true, drain: () => {} });
    this.machine.debug.flush();
    for (const { base, bytes } of this.#ram) {
      for (let at = 0; at < bytes.length; at += PAGE) {
        if (this.#dirty[(base + at) / PAGE] !== 0) bytes.fill(0, at, at + PAGE);
      }
    }
    this.#dirty.fill(0);
    this.#random.state = this.#seed;
    this.#choices = choices;
    forget();
    refill();
  }

  /** Before each piece of work. */
  begin(): void {
    this.#accesses = 0;
    refill();
  }

  /** What a device reads from `from` on, so many times after `skip`, comes from the input just then. */
  ahead(reads: number, { from = 0, skip = 0 } = {}): void {
    this.#ahead = reads;
    this.#from = from;
    this.#skip = skip;
  }

  #writeAhead(address: number, length: number): void {
    const choices = this.#choices;
    if (choices === undefined || choices.ended) return;
    this.#ahead--;
    const bytes = choices.take(length);
    this.#dirty.fill(1, Math.floor(address / PAGE), Math.ceil((address + length) / PAGE));
    for (const { base, bytes: ram } of this.#ram) {
      if (address >= base && address < base + ram.length) ram.set(bytes, address - base);
    }
  }

  read(port: number, size: Size): number {
    const value = this.machine.ports.read(port, size);
    must(
      Number.isInteger(value) && value >= 0 && value < 2 ** (8 * size),
      `${size} bytes of port 0x${port.toString(16)} read as ${value}`,
    );
    return value;
  }

  write(port: number, size: Size, value: number): void {
    this.machine.ports.write(port, size, value % 2 ** (8 * size));
  }

  pass(ns: number): void {
    this.time.time += ns;
    this.machine.clock.expire();
  }

  /**
   * Takes the machine's state and puts it into the machine again, as a snapshot does.
   * @returns devices where that can't be had
   */
  roundTrip(): string[] {
    const { machine } = this;
    const stuck = machine.quiesce();
    if (stuck.length > 0) {
      machine.proceed();
      return stuck;
    }
    const state = this.image.state.slice();
    const { hostState } = machine;
    machine.reset();
    try {
      machine.restore(() => this.image.state.set(state), hostState);
    } catch (error) {
      if (!(error instanceof SnapshotError)) throw error;
      throw new Wrong(`its own state is refused: ${error.message}`);
    }
    return [];
  }

  /**
   * What must hold of every state.
   * @param foreign it came from outside: counts may be any
   */
  check(foreign = false): void {
    const { sendCount, receiveCount } = this.#com1;
    must(
      foreign || (sendCount <= FIFO && receiveCount <= FIFO),
      `COM1's FIFOs hold ${sendCount} and ${receiveCount} bytes`,
    );
    for (const { name, values, finite } of this.#numbers) {
      for (let i = 0; i < values.length; i++) {
        const good = finite ? Number.isFinite(values[i]) : !Number.isNaN(values[i]);
        if (!good) throw new Wrong(`${name} is ${values[i]}`);
      }
    }
    must(this.machine.console.pending.length <= 2 ** 20, "the console keeps too much");
    this.checkQueues(foreign);
  }

  /** What must hold of queues at any time. */
  checkQueues(foreign = false): void {
    for (let index = 0; index < this.virtio.length; index++) {
      const r = this.virtio[index];
      const ready = (r.status & Status.DRIVER_OK) !== 0;
      for (let queue = 0; queue < QUEUES; queue++) {
        if (!foreign && !ready && r.nextAvailable[queue] + r.nextUsed[queue] !== 0) {
          throw new Wrong(`device ${index}, queue ${queue}: served for a driver that is not ready`);
        }
        if (foreign || r.queueEnable[queue] === 0) continue;
        const out = (r.nextAvailable[queue] - r.nextUsed[queue]) & 0xffff;
        if (out > r.queueSize[queue]) {
          throw new Wrong(`device ${index}, queue ${queue}: ${out} chains are out of it`);
        }
      }
    }
  }
}
