/** What a snapshot says about its machine: the CONFIG record, and the one place where it is checked. */
import * as v from "valibot";
import { ENGINES } from "../../vmm/engine-library.ts";
import { PAGE, RecordType, SnapshotError } from "../../vmm/snapshot/format.ts";
import { type Source, SnapshotReader } from "../../vmm/snapshot/reader.ts";
import { FIRMWARE_SIZE, FOUR_GIB } from "../boot/e820.ts";
import { MAX_MEMORY, MIN_MEMORY, TSC_KHZ_MAX, TSC_KHZ_MIN } from "../vm-options.ts";

/** 128 random bits, as hexadecimal digits. */
const id = v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/));
const text = v.pipe(v.string(), v.maxLength(4096));
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const u32 = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffffff));
const tsc = v.pipe(v.number(), v.integer(), v.minValue(TSC_KHZ_MIN), v.maxValue(TSC_KHZ_MAX));
const limits = v.object({
  bytes: v.optional(count),
  burst: v.optional(count),
  operations: v.optional(count),
});
const format = v.picklist(["raw", "qcow2"]);

const disk = v.object({
  path: text,
  format: v.optional(format),
  readOnly: v.optional(v.boolean()),
  limits: v.optional(limits),
});

/** Options of a VM that don't refer to what is open. */
const options = v.object({
  name: text,
  kernel: v.optional(text),
  initrd: v.optional(text),
  cmdline: v.optional(text),
  modules: v.optional(v.pipe(v.array(text), v.maxLength(64))),
  disks: v.optional(v.pipe(v.array(disk), v.maxLength(16))),
  cdrom: v.optional(text),
  devices: v.optional(v.pipe(v.array(v.picklist(["balloon", "console"])), v.maxLength(2))),
  bootDevice: v.optional(v.picklist(["cdrom", "disk", "net"])),
  memory: v.pipe(v.number(), v.multipleOf(PAGE), v.minValue(MIN_MEMORY), v.maxValue(MAX_MEMORY)),
  format: v.optional(text),
  bits: v.optional(v.picklist([32, 64])),
  debugExit: v.optional(v.boolean()),
  reboot: v.optional(v.boolean()),
  virtualTime: v.optional(v.boolean()),
  portable: v.optional(v.boolean()),
  tscKhz: v.optional(tsc),
});

const interfaceOf = v.object({
  mac: v.pipe(v.string(), v.regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/)),
  locked: v.boolean(),
  mtu: v.optional(v.pipe(v.number(), v.integer(), v.minValue(68), v.maxValue(65535))),
  limits: v.optional(limits),
  /** How whoever started it had it connected. */
  network: v.optional(v.unknown()),
});

const schema = v.object({
  /** Of this record. */
  format: v.literal(1),
  id,
  /** The snapshot that this one is based on. */
  base: v.optional(v.object({ id, path: v.optional(text) })),
  /** ms since 1970. */
  created: v.pipe(v.number(), v.finite()),
  engine: v.picklist(ENGINES),
  /** struct kvm_cpuid_entry2: leaf, subleaf, flags, EAX, EBX, ECX, EDX. */
  cpuid: v.pipe(v.array(v.tuple([u32, u32, u32, u32, u32, u32, u32])), v.maxLength(256)),
  /** How fast the TSC counts, kHz; 0 or absent: not known. */
  tscKhz: v.optional(v.union([v.literal(0), tsc])),
  /** Where firmware lies. */
  rom: v.optional(
    v.pipe(
      v.object({ base: count, size: count }),
      v.check(({ base, size }) => {
        const possible = size > 0 && size <= FIRMWARE_SIZE && size % PAGE === 0;
        return possible && base + size === FOUR_GIB;
      }),
    ),
  ),
  /** What was booted, for people. */
  boot: text,
  options,
  /** Of each disk that nobody was to write from then on: what its image was like. */
  diskStates: v.optional(v.pipe(v.array(text), v.maxLength(16))),
  /** What its UTC was ahead of the host's, ms. */
  ahead: v.pipe(v.number(), v.finite()),
  interfaces: v.pipe(v.array(interfaceOf), v.maxLength(8)),
  shares: v.optional(v.pipe(v.array(v.unknown()), v.maxLength(8))),
  vsock: v.optional(v.unknown()),
  /** It comes from a VM that is being sent. */
  migration: v.optional(
    v.variant("answers", [
      /** Where it comes from, answers are read. */
      v.object({ answers: v.literal("stream") }),
      /** ... or at an abstract socket, of the host that was booted so: the token is said first. */
      v.object({ answers: v.literal("socket"), boot: text, socket: id, token: id }),
    ]),
  ),
});

export type SnapshotConfig = v.InferOutput<typeof schema>;

/** Checks a CONFIG record's payload. @throws SnapshotError */
export function parseConfig(payload: Uint8Array): SnapshotConfig {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder().decode(payload));
  } catch {
    throw new SnapshotError("what it says about its machine is no JSON");
  }
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const path = v.getDotPath(issue) ?? "all of it";
  throw new SnapshotError(`what it says about its machine can't be: ${path}`);
}

/** Reads the beginning of a snapshot. @throws SnapshotError */
export function readConfig(source: Source): SnapshotConfig {
  const record = new SnapshotReader(source).next();
  if (record?.head.type !== RecordType.CONFIG) throw new SnapshotError("it is no snapshot");
  return parseConfig(record.payload);
}
