/**
 * The control protocol: what vctl and vmd say over the control socket. docs/protocol.md describes
 * it for everybody else.
 *
 * A request is a line of JSON, `{"version":1,"id":1,"request":"status"}`; its reply is a line with the
 * same id. A console's reply carries a descriptor.
 */
import * as v from "valibot";
import { ENGINES } from "../vmm/engine-library.ts";
import { MAX_FORWARDS, parsePortForward } from "./net/port-forward.ts";
import { sentence } from "./sentence.ts";
import { EXTRA_DEVICES, FORMATS } from "./vm-options.ts";

export const PROTOCOL_VERSION = 1;
/** A request is no longer, bytes; between vmd's processes quoting may double it. */
export const LONGEST_REQUEST = 30_000;

/** A VM's name, as vmctl takes it: §1.2 of its manual, and no name that reads as an id. */
export const VM_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
export const LONGEST_NAME = 63;

const name = v.pipe(
  v.string(),
  v.nonEmpty("missing VM name"),
  v.maxLength(LONGEST_NAME, "name too long"),
  v.regex(VM_NAME, "invalid VM name"),
  v.check((text) => !/^[0-9]+$/.test(text), "invalid VM name"),
);
const vm = v.union([v.pipe(v.number(), v.integer(), v.minValue(1)), name]);
const path = v.pipe(v.string(), v.startsWith("/"), v.maxLength(4096));
const text = v.pipe(v.string(), v.maxLength(8192));
const flag = v.optional(v.boolean(), false);

const positive = v.optional(v.pipe(v.number(), v.safeInteger(), v.minValue(1)));
const limits = v.optional(
  v.strictObject({ bytes: positive, burst: positive, operations: positive }),
);
const disk = v.strictObject({
  path,
  format: v.optional(v.picklist(["raw", "qcow2"])),
  readOnly: v.optional(v.boolean()),
  direct: v.optional(v.boolean()),
  limits,
});
const slot = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(3));
const globs = v.optional(v.pipe(v.array(text), v.maxLength(64)), []);
export const shareSchema = v.strictObject({
  path,
  tag: v.pipe(v.string(), v.minLength(1), v.maxLength(255)),
  readOnly: flag,
  allow: globs,
  deny: globs,
  /** Whose files the guest's are; the administrator's to say. */
  user: v.optional(v.pipe(v.string(), v.minLength(1), v.maxLength(255))),
});
export const vsockSchema = v.strictObject({
  cid: v.pipe(v.number(), v.integer(), v.minValue(3), v.maxValue(2 ** 32 - 2)),
  path,
});
/** As users write it: "2222:22". */
const forward = v.pipe(
  v.string(),
  v.check((text) => parsePortForward(text) !== undefined, "it is no port forward such as 2222:22"),
  v.transform((text) => parsePortForward(text)!),
);
const networkInterface = v.strictObject({
  switch: v.optional(v.pipe(v.string(), v.maxLength(63))),
  local: flag,
  limits,
  /** Ports of the host that lead to the guest's; the administrator's to say. */
  forwards: v.optional(v.pipe(v.array(forward), v.maxLength(MAX_FORWARDS))),
});

const start = v.strictObject({
  request: v.literal("start"),
  vm,
  /** Create the VM as an instance of this one. */
  template: v.optional(name),
  kernel: v.optional(path),
  initrd: v.optional(path),
  cmdline: v.optional(text),
  modules: v.optional(v.pipe(v.array(text), v.maxLength(16))),
  memory: v.optional(v.pipe(v.number(), v.integer(), v.minValue(2 ** 20), v.maxValue(2 ** 37))),
  disks: v.optional(v.pipe(v.array(disk), v.maxLength(4, "too many disks")), []),
  cdrom: v.optional(path),
  bootDevice: v.optional(v.picklist(["cdrom", "disk", "net"])),
  interfaces: v.optional(
    v.pipe(v.array(networkInterface), v.maxLength(4, "too many network interfaces")),
    [],
  ),
  interfaceCount: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(4))),
  cpus: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(64))),
  engine: v.optional(v.picklist(["auto", ...ENGINES])),
  format: v.optional(v.picklist([...FORMATS])),
  bits: v.optional(v.picklist([32, 64])),
  reboot: v.optional(v.boolean()),
  debugExit: v.optional(v.boolean()),
  virtualTime: v.optional(v.boolean()),
  portable: v.optional(v.boolean()),
  tscKhz: v.optional(v.pipe(v.number(), v.integer())),
  epoch: v.optional(v.pipe(v.number(), v.finite())),
  devices: v.optional(v.pipe(v.array(v.picklist([...EXTRA_DEVICES])), v.maxLength(2))),
  shares: v.optional(v.pipe(v.array(shareSchema), v.maxLength(4, "too many shares"))),
  vsock: v.optional(vsockSchema),
  gdb: v.optional(
    v.union([
      v.strictObject({ path }),
      v.strictObject({ host: v.pipe(v.string(), v.maxLength(45)), port: v.number() }),
    ]),
  ),
  traceExits: v.optional(path),
  record: v.optional(path),
  /** The reply brings a descriptor of the console, from its first byte on. */
  attach: flag,
});

const random = v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/));

const migrationRequests = {
  /** The reply brings a descriptor: the VM comes out of it, answers go into it. */
  send: v.strictObject({
    request: v.literal("send"),
    vm,
    /** Most of it while the guest runs. */
    live: flag,
    /** What the guest may then stand still, ms. */
    downtime: v.optional(v.pipe(v.number(), v.minValue(1), v.maxValue(60_000)), 300),
    rounds: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1000)), 30),
    /** Where the receiver finds that its answers go; absent: nowhere. */
    migration: v.optional(
      v.variant("answers", [
        v.strictObject({ answers: v.literal("stream") }),
        v.strictObject({
          answers: v.literal("socket"),
          boot: v.pipe(v.string(), v.maxLength(64)),
          socket: random,
          token: random,
        }),
      ]),
    ),
  }),
  /** How far that is: the reply comes when more than `after` steps are done. */
  migration: v.strictObject({
    request: v.literal("migration"),
    vm,
    after: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0)), 0),
  }),
  /** The reply brings a descriptor: the VM is to go into it, answers come out of it. */
  receive: v.strictObject({
    request: v.literal("receive"),
    vm: name,
    /** The first record's payload. */
    config: v.pipe(v.string(), v.maxLength(LONGEST_REQUEST)),
    /** The sender waits for answers. */
    answers: flag,
    engine: v.optional(v.picklist(["auto", ...ENGINES])),
    interfaces: v.optional(
      v.pipe(v.array(networkInterface), v.maxLength(4, "too many network interfaces")),
      [],
    ),
  }),
};

const requests = {
  start,
  hello: v.strictObject({ request: v.literal("hello") }),
  status: v.strictObject({ request: v.literal("status"), vm: v.optional(vm), running: flag }),
  show: v.strictObject({ request: v.literal("show"), vm }),
  stop: v.strictObject({
    request: v.literal("stop"),
    /** Absent: all. */
    vm: v.optional(vm),
    force: flag,
    /** The reply comes when it is gone. */
    wait: flag,
  }),
  wait: v.strictObject({ request: v.literal("wait"), vm }),
  pause: v.strictObject({ request: v.literal("pause"), vm }),
  unpause: v.strictObject({ request: v.literal("unpause"), vm }),
  console: v.strictObject({
    request: v.literal("console"),
    vm,
    stream: v.optional(v.picklist(["console", "debug", "virtio"]), "console"),
    /** The guest waits for this reader. */
    lossless: flag,
    late: flag,
  }),
  exits: v.strictObject({
    request: v.literal("exits"),
    vm,
    /** For so long exits are counted, ms. */
    time: v.optional(v.pipe(v.number(), v.integer(), v.minValue(10), v.maxValue(60_000)), 1000),
  }),
  /** The reply brings the descriptor of a stream of frames, in pcap's format. */
  capture: v.strictObject({
    request: v.literal("capture"),
    vm,
    interface: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(3)), 0),
  }),
  snapshot: v.strictObject({
    request: v.literal("snapshot"),
    vm,
    /** 128 random bits, hexadecimal: images that were frozen for it bear them. */
    snapshot: v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/)),
    /** A file that isn't there yet, or a pipe with a name. */
    path,
    pipe: flag,
    /** Memory is copied while the guest runs, which stands still for about so long, ms. */
    downtime: v.optional(v.pipe(v.number(), v.minValue(1), v.maxValue(60_000))),
    /** Its name in the end, where that is another. */
    as: v.optional(path),
    compress: flag,
    /** Only what changed since the last one, if that is known; from now on it is. */
    differential: flag,
    /** The VM ends, and its disks stay as they are. */
    stop: flag,
    /** For each disk that was frozen: its place, what bears its name now, and what it was. */
    overlays: v.optional(
      v.pipe(v.array(v.strictObject({ place: slot, path, frozen: path })), v.maxLength(4)),
      [],
    ),
  }),
  fork: v.strictObject({
    request: v.literal("fork"),
    vm,
    /** Of the copies. */
    names: v.pipe(v.array(name), v.minLength(1), v.maxLength(1000)),
    /** As of a snapshot. */
    snapshot: v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/)),
    overlays: v.optional(
      v.pipe(v.array(v.strictObject({ place: slot, path, frozen: path })), v.maxLength(4)),
      [],
    ),
  }),
  restore: v.strictObject({
    request: v.literal("restore"),
    path,
    /** Absent: as it was. */
    vm: v.optional(name),
    /** In the order of the snapshot's. */
    disks: v.optional(v.pipe(v.array(disk), v.maxLength(4)), []),
    /** All of it is looked at before anything runs. */
    verify: flag,
    /** Pages that its guest touched lately are read beside it. */
    prefetch: flag,
    /** Absent: as it was. */
    engine: v.optional(v.picklist(["auto", ...ENGINES])),
    attach: flag,
  }),
  ...migrationRequests,
  balloon: v.strictObject({
    request: v.literal("balloon"),
    vm,
    /** How much the guest is to give away, bytes; absent: as it is. */
    target: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(2 ** 37))),
  }),
  registers: v.strictObject({ request: v.literal("registers"), vm }),
  metrics: v.strictObject({ request: v.literal("metrics") }),
  load: v.strictObject({ request: v.literal("load"), path }),
  reload: v.strictObject({ request: v.literal("reload") }),
  reset: v.strictObject({
    request: v.literal("reset"),
    what: v.optional(v.picklist(["all", "switches", "vms"]), "all"),
  }),
  log: v.strictObject({
    request: v.literal("log"),
    level: v.picklist(["brief", "verbose"]),
  }),
};

export type Request = {
  [K in keyof typeof requests]: v.InferOutput<(typeof requests)[K]>;
}[keyof typeof requests];
export type RequestOf<K extends Request["request"]> = Extract<Request, { request: K }>;
/** As a client writes it: what has a default may be left out. */
export type RequestInput = {
  [K in keyof typeof requests]: v.InferInput<(typeof requests)[K]>;
}[keyof typeof requests];

/** A request that can't be taken, in one sentence. */
export class ProtocolError extends Error {
  override name = "ProtocolError";
  /** The request's id, where it could be read. */
  readonly id: number | undefined;

  constructor(message: string, id?: number) {
    super(message);
    this.id = id;
  }
}

/** Reads a request's line. @throws ProtocolError */
export function parseRequest(line: string): { id: number; body: Request } {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new ProtocolError("a request is a line of JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ProtocolError("a request is a JSON object");
  }
  const { version, id, ...body } = value as Record<string, unknown>;
  if (typeof id !== "number" || !Number.isSafeInteger(id)) {
    throw new ProtocolError("a request has an id, an integer");
  }
  if (version !== PROTOCOL_VERSION) {
    throw new ProtocolError(`this is version ${PROTOCOL_VERSION} of the protocol`, id);
  }
  if (typeof body.request !== "string" || !Object.hasOwn(requests, body.request)) {
    throw new ProtocolError("unknown request", id);
  }
  const schema = requests[body.request as keyof typeof requests];
  const result = v.safeParse(schema as v.GenericSchema<unknown, Request>, body);
  if (result.success) return { id, body: result.output };
  const [issue] = result.issues;
  const at = v.getDotPath(issue);
  throw new ProtocolError(sentence(`${at === null ? body.request : at}: ${issue.message}`), id);
}

/** Why a request was refused; values above errno's are vmd's own. */
export interface Refusal {
  id: number;
  ok: false;
  /** An errno name, or "TEMPLATE", "DISK" and the like. */
  code: string;
  /** One sentence. */
  error: string;
}

export type Reply = { id: number; ok: true; [key: string]: unknown } | Refusal;

export type VmState = "stopped" | "waiting" | "starting" | "running" | "paused" | "stopping";

/** A row of status. */
export interface VmStatus {
  id: number;
  name: string;
  pid: number | null;
  vcpus: number;
  /** Bytes. */
  maxMemory: number;
  currentMemory: number | null;
  /** A path. */
  tty: string | null;
  /** "user" or "user:group". */
  owner: string;
  state: VmState;
  engine: string | null;
  boot: string | null;
  /** Seconds since its last start; null when it doesn't run. */
  uptime: number | null;
  reboots: number;
  /** Whether a configuration file defines it. */
  configured: boolean;
}
