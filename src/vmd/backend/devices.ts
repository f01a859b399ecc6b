/** What a VM's devices lead to on this host, over all lives of its machine. */
import { IoThreads } from "../../vmm/io-threads.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import { type Disk, DiskError, type DiskFile, diskFromFile, diskFromFiles } from "../disk/index.ts";
import type { VirtioBackends } from "../machine.ts";
import { netLibrary, processLibrary } from "../../vmm/native.ts";
import { NetKind, NetPort } from "../../vmm/net-port.ts";
import { Watch } from "../console-hub.ts";
import { ShareClient } from "../share/client.ts";
import type { BlockBackend } from "../virtio/blk.ts";
import type { ConsoleBackend } from "../virtio/console.ts";
import type { NetBackend } from "../virtio/net.ts";
import type { RateLimits } from "../virtio/rate-limit.ts";
import { hostBalloon } from "./balloon.ts";
import { DescriptorFile } from "../disk/host-file.ts";
import { fileState } from "../disk/state.ts";
import { DiskBackend } from "./block.ts";
// Not by the room's index: what makes networks is no part of a VM's process.
import { dhcpReply } from "../net/dhcp.ts";
import type { DiskDescription, InterfaceDescription, LeaseDescription } from "../descriptions.ts";
import { parseMac } from "../net/mac.ts";
import { Capture } from "./capture.ts";
import { DiscBackend } from "./cdrom.ts";
import { type Intercept, PortBackend } from "./net.ts";
import { repeatableRandom } from "./random.ts";
import { VsockSockets, type VsockSocketsHost } from "./vsock.ts";

/** Threads for a VM's files. */
const THREADS = 2;

const KIND = { tap: NetKind.TAP, switch: NetKind.PACKET, passt: NetKind.STREAM } as const;

/** Stands between the devices and what they lead to; recording/machine-recorder.ts. */
export interface DeviceRecorder {
  /** The disk that a machine gets in place of this one. */
  disk(disk: BlockBackend, memory: GuestMemory): BlockBackend;
  /** What a machine's interface leads to; the descriptor is the recorder's. */
  interface(descriptor: number, kind: NetKind, intercept: Intercept | undefined): NetBackend;
}

export interface HostDevicesOptions {
  /** Tags of shares, each behind a socket. */
  readonly shares: readonly string[];
  /** Has the vCPU look up when a descriptor has something: bits of Watch. */
  readonly watch: (descriptor: number, events: number) => void;
  readonly balloon: boolean;
  /** What a virtio console leads to; absent: there is none. */
  readonly console: ConsoleBackend | undefined;
  /** A disc image. */
  readonly cdrom: DiskDescription | undefined;
  readonly interfaces: readonly InterfaceDescription[];
  readonly disks: readonly DiskDescription[];
  /** A socket device; its descriptor is the last. */
  readonly vsock: (VsockSocketsHost & { readonly cid: number }) | undefined;
  /** Next open descriptor, in the order in which files are described. */
  readonly next: () => number;
  /** Runs must be the same each time. */
  readonly repeatable: boolean;
  /** What comes from the host is recorded. */
  readonly recording: DeviceRecorder | undefined;
  /** Told what the host could not do for a device. */
  readonly failed: (why: string) => void;
}

interface HostInterface {
  /** Absent where frames are recorded. */
  readonly port: NetPort | undefined;
  readonly descriptor: number;
  readonly description: InterfaceDescription;
}

export class HostDevices {
  #io: IoThreads | undefined;
  /** Those of files that have another one, with O_DIRECT. */
  readonly #direct: number[] = [];
  #cdrom: Disk | undefined;
  readonly #disks: { disk: Disk; top: number; guessedRaw: boolean; limits?: RateLimits }[] = [];
  readonly #interfaces: HostInterface[] = [];
  readonly #recording: DeviceRecorder | undefined;
  readonly #balloon: boolean;
  readonly #shares: { tag: string; backend: ShareClient }[];
  readonly #console: ConsoleBackend | undefined;
  readonly #watch: (descriptor: number, events: number) => void;
  readonly #captures: Capture[] = [];
  #ports: PortBackend[] = [];
  readonly #repeatable: boolean;
  readonly #failed: (why: string) => void;
  readonly #vsock: { cid: number; backend: VsockSockets } | undefined;
  #backends: DiskBackend[] = [];

  /** Before the process confines itself. @throws DiskError, NativeError */
  constructor(options: HostDevicesOptions) {
    const { disks, cdrom, interfaces, next, repeatable, failed } = options;
    this.#balloon = options.balloon;
    this.#console = options.console;
    this.#repeatable = repeatable;
    this.#recording = options.recording;
    this.#failed = failed;
    this.#open(disks, cdrom, next);
    for (const description of interfaces) {
      // What a backend uses later is loaded now.
      netLibrary();
      const descriptor = next();
      const recorded = options.recording !== undefined;
      const port = recorded ? undefined : new NetPort(descriptor, KIND[description.kind]);
      this.#interfaces.push({ port, descriptor, description });
    }
    this.#shares = options.shares.map((tag) => ({ tag, backend: new ShareClient(next()) }));
    this.#watch = options.watch;
    const { vsock } = options;
    if (vsock !== undefined) {
      this.#vsock = { cid: vsock.cid, backend: new VsockSockets(next(), vsock) };
    }
  }

  /** Disks that come later than the others. @throws DiskError */
  open(
    { disks, cdrom }: Pick<HostDevicesOptions, "disks"> & { cdrom?: DiskDescription },
    descriptors: readonly number[],
  ): void {
    const left = [...descriptors];
    this.#open(disks, cdrom, () => left.shift() as number);
  }

  #open(
    disks: readonly DiskDescription[],
    cdrom: DiskDescription | undefined,
    next: () => number,
  ): void {
    const direct: DiskFile[] = [];
    const opened = ({ files }: DiskDescription): DiskFile[] =>
      files.map(({ alignment, ...file }) => {
        const one: DiskFile = { ...file, descriptor: next() };
        if (alignment !== undefined) {
          one.direct = { descriptor: next(), alignment };
          direct.push(one);
        }
        return one;
      });
    for (const { guessedRaw, limits, readOnly, ...description } of disks) {
      const files = opened({ ...description, guessedRaw, readOnly });
      const disk = diskFromFiles(files, { readOnly });
      this.#disks.push({ disk, top: files[0].descriptor, guessedRaw, limits });
    }
    if (cdrom !== undefined) this.#cdrom = diskFromFiles(opened(cdrom), { readOnly: true });
    if (disks.length === 0 && cdrom === undefined) return;
    this.#io = IoThreads.open(THREADS);
    this.#io.synchronous = this.#repeatable;
    for (const { descriptor, direct: other } of direct) {
      if (other === undefined) continue;
      this.#io.direct(descriptor, other.descriptor, other.alignment);
      this.#direct.push(descriptor);
    }
  }

  /** Once the watching thread is there. */
  watch(): void {
    for (const { backend } of this.#shares) {
      this.#watch(backend.descriptor, Watch.INPUT | Watch.ROOM);
    }
    // Else its thread sees to that.
    for (const { port, descriptor } of this.#interfaces) {
      if (port === undefined) this.#watch(descriptor, Watch.INPUT);
    }
  }

  /** For a machine that begins; those of the one before are abandoned. */
  connect(memory: GuestMemory): VirtioBackends {
    const io = this.#io;
    this.#backends = this.#disks.map(({ disk, guessedRaw }) => {
      return new DiskBackend(disk, memory, io as IoThreads, { guessedRaw, failed: this.#failed });
    });
    let disc: DiskBackend | undefined;
    if (this.#cdrom !== undefined) {
      const options = { guessedRaw: false, failed: this.#failed };
      disc = new DiskBackend(this.#cdrom, memory, io as IoThreads, options);
    }
    const recorded = (disk: DiskBackend) => this.#recording?.disk(disk, memory) ?? disk;
    this.#vsock?.backend.begin(memory);
    for (const { backend } of this.#shares) backend.begin();
    const disks = this.#backends.map((backend, index) => {
      return { backend: recorded(backend), id: `disk${index}`, limits: this.#disks[index].limits };
    });
    const cdrom = disc && new DiscBackend(recorded(disc));
    if (disc !== undefined) this.#backends.push(disc);
    return {
      random: this.#repeatable ? repeatableRandom() : (into) => void crypto.getRandomValues(into),
      interfaces: this.#interfaces.map((one, place) => {
        const { mac, locked, mtu, limits } = one.description;
        return {
          backend: this.#netBackend(one, place, memory),
          mac: macBytes(mac),
          locked,
          mtu,
          limits,
        };
      }),
      disks,
      cdrom,
      shares: this.#shares,
      balloon: this.#balloon ? hostBalloon(memory) : undefined,
      console: this.#console,
      vsock: this.#vsock,
      poll: () => {
        io?.poll();
        if (this.#captures.length > 0) this.#flushCaptures();
        this.#vsock?.backend.poll();
      },
    };
  }

  /** Everything that was written is in the disks' files. @throws DiskError */
  flush(): void {
    for (const { disk } of this.#disks) if (!disk.readOnly) disk.flush();
  }

  /** What each disk's image is like now: changed when somebody has written it since. */
  states(): string[] {
    return this.#disks.map(({ top }) => fileState(top));
  }

  /**
   * Disks' images are written no more, from now on: others, based on them, are. Nothing may be under
   * way, and all is flushed.
   * @param overlays new images, empty
   * @throws DiskError, before any disk is another
   */
  rebase(overlays: readonly (DiskFile & { place: number })[]): void {
    const made = overlays.map(({ place, name, descriptor, format }) => {
      const entry = this.#disks.at(place);
      if (entry === undefined) throw new DiskError(`disk ${place}: there is none`);
      const file = new DescriptorFile(name, descriptor);
      return { place, entry, descriptor, disk: diskFromFile(file, format, entry.disk, false) };
    });
    for (const { place, entry, descriptor, disk } of made) {
      // Whoever goes on from the snapshot reads it.
      processLibrary().vmm_lock(entry.top, 0);
      entry.disk = disk;
      entry.top = descriptor;
      this.#backends[place]?.replace(disk);
    }
  }

  #netBackend(
    { port, descriptor, description }: HostInterface,
    place: number,
    memory: GuestMemory,
  ): NetBackend {
    const { lease } = description;
    const kind = KIND[description.kind];
    if (port === undefined) {
      return (this.#recording as DeviceRecorder).interface(descriptor, kind, answering(lease));
    }
    const backend = new PortBackend(port, kind, memory, answering(lease));
    backend.capture = this.#captures[place];
    this.#ports[place] = backend;
    return backend;
  }

  /** The host's ends of the guest's sockets. */
  get vsock(): VsockSockets | undefined {
    return this.#vsock?.backend;
  }

  /**
   * Copies an interface's frames to a socket, in place of who got them before; the descriptor is
   * closed here. False when there is no such interface.
   */
  capture(place: number, descriptor: number): boolean {
    if (this.#interfaces[place]?.port === undefined) return false;
    this.#captures[place]?.close();
    this.#captures[place] = new Capture(descriptor);
    if (this.#ports[place] !== undefined) this.#ports[place].capture = this.#captures[place];
    return true;
  }

  #flushCaptures(): void {
    this.#captures.forEach((capture, place) => {
      capture.flush();
      if (!capture.ended) return;
      delete this.#captures[place];
      if (this.#ports[place] !== undefined) this.#ports[place].capture = undefined;
    });
    if (this.#captures.every((capture) => capture === undefined)) this.#captures.length = 0;
  }

  /** Ends what is under way: guest memory is about to go. */
  abandon(): void {
    for (const backend of this.#backends) backend.abandon();
    this.#backends = [];
    this.#ports = [];
    for (const { port } of this.#interfaces) port?.stop();
    this.#vsock?.backend.abandon();
  }

  /** Everything written becomes durable; files are closed. @returns what failed, in sentences */
  close(): string[] {
    this.abandon();
    for (const descriptor of this.#direct.splice(0)) this.#io?.direct(descriptor, 0, 1);
    const disks = this.#disks.splice(0).map(({ disk }) => disk);
    if (this.#cdrom !== undefined) disks.push(this.#cdrom);
    return disks.flatMap((disk) => {
      try {
        disk.close();
        return [];
      } catch (error) {
        if (error instanceof DiskError) return [error.message];
        throw error;
      }
    });
  }
}

function macBytes(text: string): Uint8Array {
  const mac = parseMac(text);
  if (mac === undefined) throw new TypeError(`${text} is no link address`);
  return mac;
}

/** Who answers DHCP on a local interface. */
function answering(lease: LeaseDescription | undefined): Intercept | undefined {
  if (lease === undefined) return undefined;
  const hostMac = lease.hostMac === undefined ? undefined : macBytes(lease.hostMac);
  const whole = { ...lease, mac: macBytes(lease.mac), hostMac };
  return (frame) => dhcpReply(frame, whole);
}
