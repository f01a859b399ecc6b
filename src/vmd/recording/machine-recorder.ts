/**
 * Records a machine: a snapshot of it as it begins, and then all that comes in from outside, which
 * it lets in at polls only. Time is virtual; while the guest sleeps it passes as the host's does, so
 * that who types or sends frames finds a guest that waits for them.
 */
import { RecordType, SnapshotError } from "../../vmm/snapshot/format.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import type { NetKind } from "../../vmm/net-port.ts";
import type { Intercept } from "../backend/net.ts";
import type { BootFile } from "../boot-files.ts";
import { machineConfig, quiesce, saveMemory, saveState } from "../snapshot/save.ts";
import type { InputGate, Stop } from "../vcpu.ts";
import type { BlockBackend } from "../virtio/blk.ts";
import type { VmLife } from "../vm-life.ts";
import { CHECK_INTERVAL, checkpoint, POLL_INTERVAL, takeDirty } from "./checkpoint.ts";
import { type EndRecord, EventKind, VERSION } from "./events.ts";
import { DescriptorFrames } from "./frame-host.ts";
import { FrameQueue } from "./frame-queue.ts";
import { type NoteEvent, RecordedDisk } from "./recorded-disk.ts";
import { RecordingWriter } from "./recording-writer.ts";
import { imageHash } from "./state-hash.ts";

/** How long events may wait before they are written, host ms; and checkpoints alone. */
const FLUSH = 100;
const FLUSH_CHECKS = 1000;
/** How long the host sleeps at once, ms, before it looks whether something came. */
const SLICE = 2;
/** Frames of one interface that are let in at once. */
const FRAMES = 64;
const NOTHING = new Uint8Array(0);

/** Whoever has the input. */
export interface RecorderHost {
  /** Not 0: something came. */
  readonly attention: Int32Array;
  /** Reads what came, and tells the recorder what of it the machine gets. */
  attend(): void;
  /** Whether the host ends the run. */
  stopped(): boolean;
}

/** How often input is let in, and how often a machine is made what it would be after a restore: guest ns. */
export interface Intervals {
  readonly poll: number;
  readonly check: number;
}

export class MachineRecorder implements InputGate {
  deadline = 0;
  readonly #writer: RecordingWriter;
  readonly #host: RecorderHost;
  readonly #intervals: Intervals;
  /** Of the machine that runs, and of the one that is being made. */
  #disks: RecordedDisk[] = [];
  #nextDisks: RecordedDisk[] = [];
  #interfaces: { queue: FrameQueue; host: DescriptorFrames }[] = [];
  #nextInterfaces: { queue: FrameQueue; host: DescriptorFrames }[] = [];
  #life!: VmLife;
  #failure: string | undefined;
  #polls = 0;
  /** Exits of the machines that are gone. */
  #exits = 0;
  /** Guest time, ns, and exits. */
  #nextCheck: number;
  #checkedExits = 0;
  /** Events since the recording began, and when they were last written. */
  #events = 0;
  #flushed = performance.now();
  /** There are others than checkpoints among those that are not written. */
  #urgent = false;
  /** Frames may be there though nobody says so. */
  #framesLeft = false;
  /** Host ns that the guest has slept too little. */
  #owed = 0;

  constructor(
    file: BootFile,
    host: RecorderHost,
    intervals: Intervals = { poll: POLL_INTERVAL, check: CHECK_INTERVAL },
  ) {
    this.#writer = new RecordingWriter(file);
    this.#host = host;
    this.#intervals = intervals;
    this.#nextCheck = intervals.check;
  }

  // --- while the machine is made

  disk(disk: BlockBackend, memory: GuestMemory): BlockBackend {
    const place = this.#nextDisks.length;
    const note: NoteEvent = (kind, device, value, data) => this.#put(kind, { device, value, data });
    const recorded = new RecordedDisk(disk, memory, place, note, this.#disks.at(place));
    this.#nextDisks.push(recorded);
    return recorded;
  }

  interface(descriptor: number, kind: NetKind, intercept: Intercept | undefined): FrameQueue {
    // A stream may be in the middle of a frame.
    const host =
      this.#interfaces.at(this.#nextInterfaces.length)?.host ??
      new DescriptorFrames(descriptor, kind, intercept, () => {
        this.#framesLeft = true;
      });
    const queue = new FrameQueue(host.offloads, host);
    this.#nextInterfaces.push({ queue, host });
    return queue;
  }

  /**
   * A machine is about to run for the first time: the first one, or the one behind a reset.
   * @param config what the CONFIG record says, but for what is known here
   * @throws RecordingWriteError, SnapshotError
   */
  begin(life: VmLife, config: object): void {
    life.vcpu.exits = this.#exits;
    this.#checkedExits = this.#exits;
    this.#nextCheck = this.#intervals.check;
    this.deadline = 0;
    this.#owed = 0;
    this.#life = life;
    this.#disks = this.#nextDisks.splice(0);
    this.#interfaces = this.#nextInterfaces.splice(0);
    quiesce(life);
    this.#writer.snapshot((writer) => {
      writer.json(RecordType.CONFIG, {
        ...config,
        ...machineConfig(life),
        recording: {
          version: VERSION,
          ...this.#intervals,
          disks: this.#disks.map(({ size, readOnly }) => ({ size, readOnly })),
          interfaces: this.#interfaces.map(({ queue }) => ({ offloads: queue.offloads })),
        },
      });
      saveMemory(life, writer, { pagemap: -1 });
      saveState(life, writer);
    });
    takeDirty(life);
    life.engine.loadCpu();
    life.machine.renew();
    life.vcpu.gate = this;
  }

  // --- what comes in, from RecorderHost.attend

  console(data: Uint8Array): void {
    this.#put(EventKind.CONSOLE, { data });
  }

  virtioConsole(data: Uint8Array): void {
    this.#put(EventKind.VIRTIO, { data });
  }

  request(command: number): void {
    this.#put(EventKind.REQUEST, { value: command });
  }

  balloon(pages: number): void {
    this.#put(EventKind.BALLOON, { value: pages });
  }

  // --- InputGate

  admit(): Stop | undefined {
    const { machine, vcpu } = this.#life;
    this.#polls++;
    if (Atomics.load(this.#host.attention, 0) !== 0 || this.#framesLeft) {
      const before = this.#events;
      this.#host.attend();
      this.#takeFrames();
      if (this.#events !== before) machine.idle();
    }
    if (machine.clock.now >= this.#nextCheck && vcpu.exits > this.#checkedExits) this.#check();
    this.deadline = machine.clock.now + this.#intervals.poll;
    if (performance.now() - this.#flushed > (this.#urgent ? FLUSH : FLUSH_CHECKS)) this.flush();
    const why = this.failure;
    if (why !== undefined) return { kind: "crash", why };
    return this.#host.stopped() ? { kind: "attention" } : undefined;
  }

  sleep(deadline: number): number {
    const { now } = this.#life.machine.clock;
    const { attention } = this.#host;
    const start = Bun.nanoseconds();
    const passed = () => Bun.nanoseconds() - start;
    const whole = deadline - now;
    // Many short sleeps are slept together.
    while (Atomics.load(attention, 0) === 0 && !this.#framesLeft) {
      const left = whole + this.#owed - passed();
      if (left < 1e6) break;
      Bun.sleepSync(Math.min(SLICE, Math.floor(left / 1e6)));
      if (whole === Infinity) this.flush();
    }
    const slept = passed();
    if (slept < whole && (Atomics.load(attention, 0) !== 0 || this.#framesLeft)) {
      this.#owed = 0;
      const woken = Math.ceil(now + slept);
      this.#put(EventKind.WAKE, { poll: this.#polls + 1, now: woken });
      return woken;
    }
    this.#owed = Math.max(0, whole + this.#owed - slept);
    return deadline;
  }

  #takeFrames(): void {
    this.#framesLeft = false;
    this.#interfaces.forEach(({ queue, host }, device) => {
      for (let i = 0; ; i++) {
        if (queue.started && (!queue.hasRoom || i === FRAMES)) {
          this.#framesLeft = true;
          return;
        }
        const frame = host.receive();
        if (frame === undefined) return;
        if (!queue.started) continue;
        this.#put(EventKind.FRAME, { device, data: frame });
        queue.deliver(frame);
      }
    });
  }

  #check(): void {
    const { vcpu, machine } = this.#life;
    this.#nextCheck = machine.clock.now + this.#intervals.check;
    this.#checkedExits = vcpu.exits;
    try {
      const data = new Uint8Array(8);
      new DataView(data.buffer).setBigUint64(0, checkpoint(this.#life), true);
      this.#put(EventKind.CHECK, { data });
    } catch (error) {
      if (!(error instanceof SnapshotError)) throw error;
      this.#failure = `it can't be recorded: ${error.message}`;
    }
  }

  #put(
    kind: EventKind,
    {
      device = 0,
      value = 0,
      poll = this.#polls,
      now = this.#life.machine.clock.now,
      data = NOTHING,
    }: { device?: number; value?: number; poll?: number; now?: number; data?: Uint8Array },
  ): void {
    this.#events++;
    if (kind !== EventKind.CHECK) this.#urgent = true;
    const { exits } = this.#life.vcpu;
    this.#writer.put({ kind, device, value, poll, exits, now: Math.ceil(now), data });
  }

  /** Why the recording is not whole, in one sentence; the run ends with it. */
  get failure(): string | undefined {
    return this.#failure ?? this.#writer.failure;
  }

  flush(): void {
    this.#flushed = performance.now();
    this.#urgent = false;
    this.#writer.flush();
  }

  /** The guest has reset its machine: another one begins. */
  reset(message: string): void {
    this.#putEnd(EventKind.RESET, message, 0);
    this.#exits = this.#life.vcpu.exits;
    this.flush();
  }

  /** The run is over. @returns the final image's checksum */
  end(message: string, stopped: boolean): string {
    const image = this.#putEnd(EventKind.END, message, stopped ? 1 : 0);
    this.#writer.close();
    return image;
  }

  #putEnd(kind: EventKind, message: string, value: number): string {
    const image = imageHash(this.#life);
    const record: EndRecord = { image, message };
    this.#put(kind, { value, data: new TextEncoder().encode(JSON.stringify(record)) });
    return image;
  }
}
