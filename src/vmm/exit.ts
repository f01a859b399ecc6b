/**
 * An exit is a record: struct kvm_run of linux/kvm.h, whichever engine filled it.
 *
 * The fields that the hot path reads are plain typed arrays over the run page; nothing here
 * allocates once it is made.
 */
import { hostBuffer } from "./native.ts";

/** Exit reasons that this project meets; numbers of linux/kvm.h. */
export const ExitReason = {
  UNKNOWN: 0,
  IO: 2,
  DEBUG: 4,
  HLT: 5,
  MMIO: 6,
  IRQ_WINDOW_OPEN: 7,
  SHUTDOWN: 8,
  FAIL_ENTRY: 9,
  INTR: 10,
  INTERNAL_ERROR: 17,
  SYSTEM_EVENT: 24,
  RDMSR: 29,
  WRMSR: 30,
} as const;

const NAMES = new Map<number, string>(
  Object.entries({ ...ExitReason, EXCEPTION: 1, HYPERCALL: 3, NMI: 16 }).map(([name, value]) => [
    value,
    name,
  ]),
);

/** "IO", "HLT", ...; a number that has no name here as "exit 42". */
export function exitName(reason: number): string {
  return NAMES.get(reason) ?? `exit ${reason}`;
}

/** KVM_EXIT_IO_OUT; 0 is KVM_EXIT_IO_IN. */
export const IO_OUT = 1;

/** Bits of kvm_valid_regs and kvm_dirty_regs. */
export const SYNC_REGS = { REGS: 1, SREGS: 2, EVENTS: 4 } as const;

const SYNC_OFFSET = 304;

/** The run page of a vCPU. */
export class RunPage {
  readonly buffer: ArrayBuffer;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly view: DataView;

  constructor(address: number, size: number) {
    this.buffer = hostBuffer(address, size);
    this.u8 = new Uint8Array(this.buffer);
    this.u16 = new Uint16Array(this.buffer);
    this.u32 = new Uint32Array(this.buffer);
    this.view = new DataView(this.buffer);
  }

  get reason(): number {
    return this.u32[2];
  }

  /** Exit as soon as the guest can take an interrupt. */
  set requestInterruptWindow(wanted: boolean) {
    this.u8[0] = wanted ? 1 : 0;
  }

  /** The guest can take an interrupt now. */
  get readyForInterrupt(): boolean {
    return this.u8[12] !== 0;
  }

  /** RFLAGS.IF at the exit. */
  get interruptsEnabled(): boolean {
    return this.u8[13] !== 0;
  }

  get immediateExit(): boolean {
    return this.u8[1] !== 0;
  }

  /** Finish the instruction that is under way, and exit. */
  set immediateExit(wanted: boolean) {
    this.u8[1] = wanted ? 1 : 0;
  }

  // KVM_EXIT_IO
  get ioDirection(): number {
    return this.u8[32];
  }
  /** Bytes: 1, 2 or 4. */
  get ioSize(): number {
    return this.u8[33];
  }
  get ioPort(): number {
    return this.u16[17];
  }
  /** Items, more than one for string instructions. */
  get ioCount(): number {
    return this.u32[9];
  }
  /** Where the items are, bytes from the start of the page. */
  get ioData(): number {
    return this.u32[10];
  }

  // KVM_EXIT_MMIO
  get mmioAddress(): number {
    return this.u32[8] + this.u32[9] * 2 ** 32;
  }
  /** Bytes 40 to 47 hold the data. */
  static readonly MMIO_DATA = 40;
  get mmioLength(): number {
    return this.u32[12];
  }
  get mmioIsWrite(): boolean {
    return this.u8[52] !== 0;
  }

  // KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR
  get msrIndex(): number {
    return this.u32[11];
  }
  get msrData(): bigint {
    return this.view.getBigUint64(48, true);
  }
  set msrData(value: bigint) {
    this.view.setBigUint64(48, value, true);
  }
  /** True makes the instruction raise #GP. */
  set msrError(error: boolean) {
    this.u8[32] = error ? 1 : 0;
  }

  // KVM_EXIT_DEBUG
  /** Linear address of the next instruction. */
  get debugPc(): bigint {
    return this.view.getBigUint64(40, true);
  }
  /** Bits 0 to 3: breakpoints that were met; 0x4000: a step is done. */
  get debugDr6(): number {
    return this.u32[12];
  }

  // KVM_EXIT_INTERNAL_ERROR
  get internalSuberror(): number {
    return this.u32[8];
  }

  // KVM_EXIT_FAIL_ENTRY
  get entryFailure(): bigint {
    return this.view.getBigUint64(32, true);
  }

  /** Registers that each exit is to bring; bits of SYNC_REGS. */
  set syncRegisters(bits: number) {
    this.u32[72] = bits;
    this.u32[73] = 0;
  }

  /** kvm_sync_regs: kvm_regs, then kvm_sregs, as in struct vmm_cpu. */
  get registers(): DataView {
    return new DataView(this.buffer, SYNC_OFFSET, 520);
  }

  /** RIP of the last exit that brought registers. */
  get rip(): bigint {
    return this.view.getBigUint64(SYNC_OFFSET + 128, true);
  }
}

const SUBERRORS = new Map([
  [1, "the host's KVM can't emulate the instruction"],
  [2, "an exception came up while another was delivered"],
  [3, "the processor gave an exit reason that KVM doesn't know"],
  [4, "an event was being delivered during an exit"],
]);

/** Why the exit ends a VM, in words; undefined for one that a machine can go on from. */
export function fatalExit(run: RunPage): string | undefined {
  switch (run.reason) {
    case ExitReason.IO:
    case ExitReason.HLT:
    case ExitReason.MMIO:
    case ExitReason.IRQ_WINDOW_OPEN:
    case ExitReason.SHUTDOWN:
    case ExitReason.INTR:
    case ExitReason.RDMSR:
    case ExitReason.WRMSR:
      return undefined;
    case ExitReason.INTERNAL_ERROR: {
      const suberror = run.internalSuberror;
      return `internal error ${suberror}: ${SUBERRORS.get(suberror) ?? "unknown to vmd"}`;
    }
    case ExitReason.FAIL_ENTRY:
      return `the processor refused to enter the guest (reason 0x${run.entryFailure.toString(16)})`;
    default:
      return `unexpected ${exitName(run.reason)} exit`;
  }
}
