/** Writes what a VM's process knows of its machine into a snapshot. */
import {
  closeGaps,
  FEW,
  TEMPLATE_GAP,
  usedOf,
  usedPages,
} from "../../vmm/snapshot/machine-memory.ts";
import { RecordType, SnapshotError } from "../../vmm/snapshot/format.ts";
import { encodeBlocks, imageBlocks } from "../../vmm/snapshot/blocks.ts";
import { encodeHotPages } from "../../vmm/snapshot/hot-pages.ts";
import type { PageSet } from "../../vmm/snapshot/page-set.ts";
import type { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import { encodeCpuRecord } from "./cpu-record.ts";
import type { CpuidLeaf } from "../../vmm/cpuid.ts";
import type { HostRecord } from "./host-record.ts";
import type { VmLife } from "../vm-life.ts";

/** What of a CONFIG record a VM's process knows. */
export function machineConfig({ engine, description, rom }: VmLife) {
  const { name, cpuid, tscKhz } = engine;
  return { engine: name, cpuid: cpuid.map(leafNumbers), tscKhz, boot: description, rom };
}

const leafNumbers = ({ leaf, subleaf, flags, eax, ebx, ecx, edx }: CpuidLeaf): number[] => {
  return [leaf, subleaf, flags, eax, ebx, ecx, edx];
};

/** Before anything is begun. @throws SnapshotError that names a device which is in the way */
export function requireNoObstacle({ machine }: VmLife): void {
  const obstacles = machine.obstacles();
  if (obstacles.length > 0) throw new SnapshotError(obstacles.join("; "));
}

/**
 * The machine stands still: whatever its devices have begun is done or taken back.
 * @throws SnapshotError that names a device where that can't be had
 */
export function quiesce(life: VmLife): void {
  const stuck = life.machine.quiesce();
  if (stuck.length === 0) return;
  life.machine.proceed();
  throw new SnapshotError(stuck.join("; "));
}

/**
 * Writes pages: all that hold anything, or of a differential snapshot those that changed.
 * @param changed pages that may differ from the snapshot that this one is based on
 * @param template it is mapped by many, and soon
 */
export function saveMemory(
  life: VmLife,
  writer: SnapshotWriter,
  {
    pagemap,
    changed,
    template = false,
  }: { pagemap: number; changed?: PageSet; template?: boolean },
): void {
  const { image } = life;
  if (changed === undefined) {
    writer.memory(
      image.memory,
      closeGaps(usedPages(image, pagemap), template ? TEMPLATE_GAP : undefined),
    );
    return;
  }
  if (template && changed.count <= FEW) {
    // Looking for zeros would take longer than they do.
    writer.memory(image.memory, changed.runs());
    return;
  }
  const used = usedOf(image, changed, pagemap);
  const zeros = changed.copy();
  zeros.removeAll(used);
  writer.zeros(zeros.runs());
  writer.memory(image.memory, template ? closeGaps(used) : used.runs());
}

/** Writes which of some pages hold anything: the guest touched them lately. */
export function saveHotPages(
  { image }: VmLife,
  writer: SnapshotWriter,
  touched: PageSet,
  pagemap: number,
): void {
  writer.bytes(RecordType.HOT, encodeHotPages(usedOf(image, touched, pagemap)));
}

/** Writes the registers of a machine that was quiesced, and the end. */
export function saveState(life: VmLife, writer: SnapshotWriter): void {
  saveRegisters(life, writer);
  writer.end();
}

/** ... without the end. */
export function saveRegisters(life: VmLife, writer: SnapshotWriter): void {
  const { image, engine, machine, vcpu } = life;
  engine.saveCpu();
  const { input, ahead } = machine.hostState;
  // The clock's last sample is what the machine goes on with.
  machine.clock.sample();
  writer.bytes(RecordType.STATE, encodeBlocks(imageBlocks(image)));
  writer.bytes(RecordType.CPU, encodeCpuRecord(image, machine.clock.now));
  const host: HostRecord = {
    halted: vcpu.halted,
    input: Buffer.from(input).toString("base64"),
    ahead,
  };
  writer.json(RecordType.HOST, host);
}
