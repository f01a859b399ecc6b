/**
 * The classic machine: one CPU and the chips of a PC before ACPI, as vmd has it: i8259 pair with
 * ELCR, i8253, mc146818, ns8250, PCI with INTx, fw_cfg. It boots OpenBSD, Linux and BIOS.
 *
 * | ports | chip |
 * |---|---|
 * | 0x20 0x21 0xa0 0xa1 0x4d0 0x4d1 | i8259 pair, ELCR |
 * | 0x40 - 0x43, 0x61 | i8253, system control port B |
 * | 0x60 0x64 0x92 0xcf9 | reset |
 * | 0x70 0x71 | mc146818 |
 * | 0x3f8 - 0x3ff | COM1, IRQ 4 |
 * | 0x402, 0xe9 | debug output |
 * | 0xf4 - 0xf7 | isa-debug-exit, when asked for |
 * | 0x510 0x511 0x514 - 0x51b | fw_cfg |
 * | 0xcf8, 0xcfc - 0xcff | PCI configuration |
 * | 0x1000 - 0x1fff | vmmci, IRQ 3, unless the guest moves it |
 * | 0x2000 … | 4 KiB for each virtio device, unless the guest moves it |
 *
 * On the PCI bus, in vmd's order: host bridge, rng, interfaces, disks, CD-ROM, what vmd hasn't got, and
 * at last vmmci.
 */
import { Clock, ClockRegisters, type TimeSource } from "../vmm/clock.ts";
import type { MachineImage, RangeRequest } from "../vmm/image.ts";
import type { GuestMemory } from "../vmm/memory.ts";
import { SnapshotError } from "../vmm/snapshot/format.ts";
import { classicMemoryMap, classicRam, type E820Entry, HOLE_BASE, packE820 } from "./boot/index.ts";
import { MmioBus, PortBus } from "./bus.ts";
import {
  DebugPort,
  FwCfg,
  FwCfgRegisters,
  HOST_BRIDGE,
  I8253,
  I8253Registers,
  I8259,
  I8259Registers,
  ISA_DEBUG_EXIT,
  IsaDebugExit,
  Mc146818,
  Mc146818Registers,
  Ns8250,
  Ns8250Registers,
  Pci,
  PciFunction,
  PciFunctionRegisters,
  PciRegisters,
  Port61,
  Port61Registers,
  Reset,
  ResetRegisters,
} from "./chips/index.ts";
import { Console } from "./console.ts";
import type { MachineEvent, MmioDevice, Resettable } from "./device.ts";
import type { Hardware } from "./vcpu.ts";
import { NineP, type NinePBackend } from "./virtio/9p.ts";
import { Balloon, type BalloonBackend, BalloonRegisters } from "./virtio/balloon.ts";
import { Blk, BlkRegisters, type BlockBackend } from "./virtio/blk.ts";
import { PciClass, VirtioBus } from "./virtio/bus.ts";
import {
  Console as VirtioConsole,
  type ConsoleBackend,
  ConsoleRegisters,
} from "./virtio/console.ts";
import { Net, type NetBackend, type NetOptions } from "./virtio/net.ts";
import { RateLimit, RateLimitRegisters, type RateLimits } from "./virtio/rate-limit.ts";
import { Rng } from "./virtio/rng.ts";
import { type CdromBackend, Scsi, ScsiRegisters } from "./virtio/scsi.ts";
import { TimeSync } from "./virtio/time-sync.ts";
import { Vsock } from "./virtio/vsock.ts";
import type { VsockBackend } from "./virtio/vsock-backend.ts";
import { VsockRegisters } from "./virtio/vsock-table.ts";
import { Vmmci, VmmciCommand, vmmciFunction, VmmciRegisters } from "./virtio/vmmci.ts";

const IRQ = { TIMER: 0, COM1: 4, RTC: 8 } as const;
const ELCR = 0x4d0;
/**
 * Guest time that a latch of timer counter 0 takes, ns: what the ISA bus took, about. Kernels that
 * calibrate by polling the counter get done in a tenth of the polls.
 */
const LATCH_WARP = 3000;
const LOCAL_APIC = 0xfee00000;

export type BootDevice = "cdrom" | "disk" | "net";

/** What the virtio devices of a machine lead to; it has the devices that are named here. */
export interface VirtioBackends {
  /** Fills an array with random bytes. */
  readonly random: (into: Uint8Array) => void;
  readonly interfaces: readonly ({
    readonly backend: NetBackend;
    readonly limits?: RateLimits;
  } & NetOptions)[];
  /** With their serial numbers. */
  readonly disks: readonly {
    readonly backend: BlockBackend;
    readonly id: string;
    readonly limits?: RateLimits;
  }[];
  readonly cdrom?: CdromBackend;
  readonly shares?: readonly { readonly tag: string; readonly backend: NinePBackend }[];
  readonly balloon?: BalloonBackend;
  readonly console?: ConsoleBackend;
  /** With the guest's CID. */
  readonly vsock?: { readonly backend: VsockBackend; readonly cid: number };
  /** Looks for what is done. */
  readonly poll?: () => void;
}

/** What a machine is made of. */
export interface MachineOptions {
  /** RAM, bytes. */
  readonly memory: number;
  /** UTC at the start, ms since 1970. */
  readonly epoch: number;
  /** Whether port 0xf4 ends the VM. */
  readonly debugExit: boolean;
  /** Given what the guest writes to COM1. */
  readonly output: (bytes: Uint8Array) => void;
  /** Whether COM1's reader has enough for now. Default: never. */
  readonly outputBlocked?: () => boolean;
  /** Told how many bytes of COM1's input the guest has taken. */
  readonly inputTaken?: (bytes: number) => void;
  /** Given what the guest writes to the debug ports. */
  readonly debug: (bytes: Uint8Array) => void;
  /**
   * The host's time, ms since 1970: vmmci tells it, and keeps the guest's clock with it. Without it
   * the guest's clock is all there is, as in runs that repeat.
   */
  readonly hostTime?: () => number;
  /** What firmware boots from; default: the first disk, or without one the CD-ROM. */
  readonly bootDevice?: BootDevice;
  /** Default: random numbers of this process, and nothing else. */
  readonly backends?: (memory: GuestMemory) => VirtioBackends;
  /** A driver broke a rule of its device, which now needs a reset. */
  readonly broke?: (device: string, why: string) => void;
  /** The guest has seen what vmmci asked of it. */
  readonly acknowledged?: (command: number) => void;
  /** The guest says by vmmci that it is about to halt, power off or reset; perhaps often. */
  readonly shuttingDown?: () => void;
}

/** What is a machine's and no register. */
export interface HostState {
  /** Typed at COM1, and not taken by the guest. */
  readonly input: Uint8Array;
  /** What the host's UTC was ahead of the guest's, ns; absent in runs that repeat. */
  readonly ahead?: number;
}

/**
 * The guest-physical ranges that the machine needs.
 * @param rom where firmware lies, if there is any.
 */
export function memoryRanges(
  memory: number,
  rom: { base: number; size: number } | undefined,
): RangeRequest[] {
  const ranges = classicRam(memory).map((range) => ({ ...range, readonly: false }));
  return rom === undefined ? ranges : [...ranges, { ...rom, readonly: true }];
}

export class ClassicMachine implements Hardware {
  readonly options: MachineOptions;
  readonly memory: GuestMemory;
  readonly ports = new PortBus();
  readonly mmio = new MmioBus();
  readonly clock: Clock;
  readonly interrupts: I8259;
  readonly console: Console;
  readonly debug: Console;
  readonly pci: Pci;
  readonly vmmci: Vmmci;
  readonly e820: readonly E820Entry[];
  event: MachineEvent | undefined;
  readonly #com1: Ns8250;
  readonly #rtc: Mc146818;
  readonly #timeSync: TimeSync | undefined;
  readonly #virtio: VirtioBus;
  readonly #backends: VirtioBackends;
  #balloon: Balloon | undefined;
  #virtioConsole: VirtioConsole | undefined;
  readonly #chips: Resettable[];

  /**
   * Chips on the image's registers, which keep their values: reset is for power-on.
   * @param time where guest time comes from.
   */
  constructor(image: MachineImage, time: TimeSource, options: MachineOptions) {
    this.options = options;
    this.memory = image.memory;
    this.e820 = classicMemoryMap(options.memory);
    this.clock = new Clock(image.registers(ClockRegisters), time);
    const { clock, ports } = this;
    const emit = (event: MachineEvent) => {
      this.event ??= event;
    };

    const pic = new I8259(image.registers(I8259Registers));
    this.interrupts = pic;
    for (const port of [0x20, 0xa0, 0x4d0]) ports.add(port, 2, pic);

    const warp = time.warp === undefined ? 0 : LATCH_WARP;
    const pit = new I8253(image.registers(I8253Registers), clock, pic.line(IRQ.TIMER), {
      latchWarp: warp,
    });
    ports.add(0x40, 4, pit);
    const port61 = new Port61(image.registers(Port61Registers), clock, pit);
    ports.add(0x61, 1, port61);

    this.#rtc = new Mc146818(image.registers(Mc146818Registers), clock, pic.line(IRQ.RTC));
    ports.add(0x70, 2, this.#rtc);

    this.console = new Console(options.output, options.outputBlocked, options.inputTaken);
    this.#com1 = new Ns8250(
      image.registers(Ns8250Registers),
      clock,
      pic.line(IRQ.COM1),
      this.console,
      () => this.console.serve(this.#com1),
    );
    ports.add(0x3f8, 8, this.#com1);

    this.debug = new Console(options.debug);
    const debugPort = new DebugPort((byte) => this.debug.transmit(byte));
    ports.add(0x402, 1, debugPort);
    ports.add(0xe9, 1, debugPort);

    const reset = new Reset(image.registers(ResetRegisters), emit);
    for (const port of [0x60, 0x64, 0x92, 0xcf9]) ports.add(port, 1, reset);
    if (options.debugExit) {
      ports.add(ISA_DEBUG_EXIT.port, ISA_DEBUG_EXIT.count, new IsaDebugExit(emit), 4);
    }
    this.pci = new Pci(image.registers(PciRegisters));
    this.pci.add(new PciFunction(image.registers(PciFunctionRegisters), HOST_BRIDGE));
    this.#virtio = new VirtioBus({
      image,
      pci: this.pci,
      ports,
      line: (irq) => pic.line(irq),
      broke: options.broke,
    });
    // It keeps its line and ports, however many others there are.
    const { irq, port } = this.#virtio.next();
    this.#backends = options.backends?.(image.memory) ?? NO_BACKENDS;
    this.#addVirtio(image, this.#backends);
    const vmmciPci = new PciFunction(
      image.registers(PciFunctionRegisters),
      vmmciFunction(irq, port),
      pic.line(irq),
      (bar, from, to) => {
        if (from >= 0) ports.remove(from, bar.size, this.vmmci);
        if (to < 0) return;
        this.vmmci.base = to;
        ports.add(to, bar.size, this.vmmci, 4);
      },
    );
    this.vmmci = new Vmmci(image.registers(VmmciRegisters), {
      interrupt: (level) => vmmciPci.interrupt(level),
      acknowledged: (command) => options.acknowledged?.(command),
      shuttingDown: () => options.shuttingDown?.(),
      time: options.hostTime ?? (() => clock.utc / 1e6),
      driverChanged: () => this.#timeSync?.watch(this.vmmci.syncsRtc),
    });
    this.pci.add(vmmciPci);
    if (options.hostTime !== undefined) {
      this.#timeSync = new TimeSync(clock, options.hostTime, () => {
        this.#rtc.moved();
        this.vmmci.request(VmmciCommand.SYNC_RTC);
      });
    }
    // Of 0xcf8 to 0xcff only 0xcf9 is somebody else's.
    ports.add(0xcf8, 1, this.pci, 4);
    ports.add(0xcfa, 6, this.pci, 4);

    const fwCfg = new FwCfg(image.registers(FwCfgRegisters), image.memory, {
      cpus: 1,
      files: [
        { name: "etc/e820", data: packE820(this.e820) },
        // No screen: SeaBIOS then says what it does on the serial port.
        { name: "etc/screen-and-debug", data: new Uint8Array(4) },
        { name: "bootorder", data: this.#bootOrder() },
      ],
    });
    ports.add(0x510, 1, fwCfg, 2);
    ports.add(0x511, 1, fwCfg);
    ports.add(0x514, 8, fwCfg, 4);

    // Kernels look for a local APIC before they ask CPUID; all ones there look like a broken one.
    this.mmio.add(LOCAL_APIC, 0x1000, zeroes);

    this.#chips = [pic, pit, port61, this.#rtc, this.#com1, reset, this.vmmci, this.pci, fwCfg];
  }

  #addVirtio(image: MachineImage, backends: VirtioBackends): void {
    const bus = this.#virtio;
    const { MISCELLANEOUS, SCSI, COMMUNICATION } = PciClass;
    bus.add("rng", MISCELLANEOUS, (transport) => new Rng(transport, backends.random));
    const limit = (limits: RateLimits, open: () => void) =>
      new RateLimit(image.registers(RateLimitRegisters), this.clock, limits, open);
    backends.interfaces.forEach(({ backend, limits, ...options }, index) => {
      const net = bus.add(`interface ${index}`, MISCELLANEOUS, (transport) => {
        return new Net(transport, backend, options);
      });
      if (limits === undefined) return;
      const resume = () => net.resume();
      net.limits = { send: limit(limits, resume), receive: limit(limits, resume) };
    });
    backends.disks.forEach(({ backend, id, limits }, index) => {
      const blk = bus.add(`disk ${index}`, SCSI, (transport) => {
        return new Blk(image.registers(BlkRegisters), transport, backend, id);
      });
      if (limits !== undefined) blk.limit = limit(limits, () => blk.resume());
    });
    const { cdrom, balloon, console, vsock } = backends;
    if (cdrom !== undefined) {
      bus.add("cdrom", SCSI, (transport) => {
        return new Scsi(image.registers(ScsiRegisters), transport, cdrom);
      });
    }
    for (const { tag, backend } of backends.shares ?? []) {
      bus.add(`share ${tag}`, MISCELLANEOUS, (transport) => new NineP(transport, tag, backend));
    }
    if (balloon !== undefined) {
      this.#balloon = bus.add("balloon", MISCELLANEOUS, (transport) => {
        return new Balloon(image.registers(BalloonRegisters), transport, image.memory, balloon);
      });
    }
    if (console !== undefined) {
      this.#virtioConsole = bus.add("console", COMMUNICATION, (transport) => {
        return new VirtioConsole(image.registers(ConsoleRegisters), transport, console);
      });
    }
    if (vsock !== undefined) {
      bus.add("vsock", MISCELLANEOUS, (transport) => {
        const registers = image.registers(VsockRegisters);
        return new Vsock(registers, transport, vsock.backend, vsock.cid);
      });
    }
  }

  /** What firmware boots from, and that it then stops: SeaBIOS, docs/Runtime_config.md. */
  #bootOrder(): Uint8Array {
    const bus = this.#virtio;
    const disk = bus.numberOf("disk 0");
    const cdrom = bus.numberOf("cdrom");
    const device = this.options.bootDevice ?? (disk === undefined ? "cdrom" : "disk");
    const lines = ["HALT"];
    if (device === "disk" && disk !== undefined) lines.unshift(`/pci@i0cf8/*@${disk.toString(16)}`);
    if (device === "cdrom" && cdrom !== undefined) {
      // Target 0; the unit's number with flat space addressing: as vmd says it.
      lines.unshift(`/pci@i0cf8/*@${cdrom.toString(16)}/*@0/*@0,40000100`);
    }
    return new TextEncoder().encode(`${lines.join("\n")}\0`);
  }

  /** As after power-on. RAM keeps what it holds. */
  reset(): void {
    this.clock.epoch = this.options.epoch * 1e6;
    for (const chip of this.#chips) chip.reset();
    // Lines of PCI functions: they are shared by level.
    this.interrupts.write(ELCR, 1, this.#virtio.lines & 0xff);
    this.interrupts.write(ELCR + 1, 1, this.#virtio.lines >> 8);
    const low = Math.min(this.options.memory, HOLE_BASE);
    this.#rtc.configure({ low, high: this.options.memory - low, cpus: 1 });
    this.#timeSync?.reset();
    this.event = undefined;
  }

  /** Devices of which no snapshot can be taken as they are now, and why. Changes nothing. */
  obstacles(): string[] {
    return this.#virtio.obstacles();
  }

  /**
   * Before its state is taken: everything is in registers and memory, but for what `hostState` has.
   * @returns devices where that can't be had, and why
   */
  quiesce(): string[] {
    this.#backends.poll?.();
    const stuck = this.#virtio.quiesce();
    this.flush();
    return stuck;
  }

  /** After that, when the machine goes on. */
  proceed(): void {
    this.#virtio.proceed();
  }

  /** After that, as if it had been restored: what goes on is then the same in both. */
  renew(): void {
    this.#virtio.reattach();
    this.clock.rearmed = true;
  }

  /** What a snapshot holds besides registers and memory. */
  get hostState(): HostState {
    return { input: this.console.pending, ahead: this.#timeSync?.ahead };
  }

  /**
   * Takes on a state, after a `reset`.
   * @param apply puts it into the image; what it throws is thrown on
   */
  restore(apply: () => void, { input, ahead }: HostState): void {
    this.pci.detach();
    apply();
    const why = this.#virtio.impossible();
    if (why !== undefined) throw new SnapshotError(`its state can't be: ${why}`);
    this.pci.reattach();
    this.#virtio.reattach();
    this.console.input(input);
    this.clock.rearmed = true;
    if (this.#timeSync !== undefined && ahead !== undefined) this.#timeSync.ahead = ahead;
  }

  get balloon(): Balloon | undefined {
    return this.#balloon;
  }

  get virtioConsole(): VirtioConsole | undefined {
    return this.#virtioConsole;
  }

  /** The guest did not run for a while: it is to look at the clock, if a driver is there for that. */
  syncTime(): void {
    if (this.#timeSync === undefined) return;
    this.#timeSync.look();
    this.vmmci.request(VmmciCommand.SYNC_RTC);
  }

  /** The guest rests: hands on its output, and gives it input that was waiting. */
  idle(): void {
    this.#backends.poll?.();
    this.#virtio.poll();
    this.flush();
    this.console.serve(this.#com1);
  }

  flush(): void {
    this.console.flush();
    this.debug.flush();
  }
}

const NO_BACKENDS: VirtioBackends = {
  random: (into) => void crypto.getRandomValues(into),
  interfaces: [],
  disks: [],
};

const zeroes: MmioDevice = {
  read: (_address, data, size) => void data.fill(0, 0, size),
  write: () => {},
};
