/**
 * A machine that waits for whoever goes on with it: in a VM's process that is confined already, its
 * snapshots are in its memory, its engine is open, and, where the engine translates code, what the guest
 * does next is translated: it has run for a moment for nothing, and its memory is again what it was.
 */
import { closeSync } from "node:fs";
import { DirtyLog } from "../vmm/dirty-log.ts";
import { Engine, type EngineName } from "../vmm/engine.ts";
import { MachineImage } from "../vmm/image.ts";
import {
  hostBuffer,
  hostLibrary,
  ioLibrary,
  NativeError,
  netLibrary,
  portLibrary,
  watchLibrary,
} from "../vmm/native.ts";
import { type EngineChoice, selectEngine } from "../vmm/select.ts";
import { PAGE } from "../vmm/snapshot/format.ts";
import { FileSource } from "../vmm/snapshot/sources.ts";
import { confine } from "./confine.ts";
import { idleBackends } from "./backend/idle.ts";
import { ClassicMachine, memoryRanges, type VirtioBackends } from "./machine.ts";
import { applyClock } from "./snapshot/cpu-record.ts";
import { loadSnapshots } from "./snapshot/load.ts";
import { openInputs, processorOf } from "./snapshot/restore-life.ts";
import { machineOptions, type PreparedMachine, takeOn } from "./vm-life.ts";
import { type Attempt, prepareProbe } from "./sandbox-probe.ts";
import { Vcpu } from "./vcpu.ts";
import type {
  Confinement,
  PrepareMessage,
  RestoreDescription,
  StartMessage,
} from "./vm-messages.ts";

/** For how long the guest runs for nothing, ms of its time. */
const SPELL = 250;
/** A machine is made and takes a state on so often for nothing: then what does it is compiled. */
const OFTEN = 40;
const NS = 1e6;

/** What a process is confined for. */
export interface Ground {
  readonly engine: EngineName;
  /** Why not a better engine; empty when there is none. */
  readonly why: string;
  /** What of the sandbox is not there, as a sentence; empty when all is. */
  readonly unconfined: string;
  /** For tests of the sandbox. */
  readonly probe: ((what: Attempt) => string) | undefined;
}

export interface Preparation {
  readonly ground: Ground;
  /** Descriptor of vmm_pagemap_open. */
  readonly pagemap: number;
  /** See openWatch. */
  readonly attention: Int32Array;
  readonly machine: PreparedMachine;
}

/**
 * Starts the watching thread (native/watch.c).
 * @returns the word that it sets when something comes
 * @throws NativeError
 */
export function openWatch(): Int32Array {
  const word = watchLibrary().vmm_watch_open();
  if (!word) throw new NativeError("the watching thread", -11);
  return new Int32Array(hostBuffer(word as unknown as number, 4));
}

/** Loads what an engine needs of the host; from then on nothing is opened. @throws what isExpected knows */
export function settle(
  wanted: EngineChoice | undefined,
  confinement: Confinement | undefined,
): Ground {
  const { engine, why } = selectEngine(wanted);
  const probe = process.env.VMD_PROBE === "yes" ? prepareProbe() : undefined;
  return { engine, why, unconfined: confine(confinement, engine), probe };
}

/**
 * Goes on with a machine that waits as when it is wanted, for nothing.
 * @param descriptors of the snapshot that it is given besides; closed here
 * @param backends of its devices
 * @throws what isExpected knows
 */
export type TryOn = (
  preparation: Preparation,
  start: StartMessage,
  descriptors: readonly number[],
  backends: () => VirtioBackends,
) => void;

/**
 * @param message with the start of a VM that went on from the same snapshots
 * @param descriptors of the snapshots; closed here
 * @throws what isExpected knows
 */
export function prepare(
  { start, changed }: PrepareMessage,
  descriptors: readonly number[],
  tryOn: TryOn,
): Preparation {
  const { options, files, confine: confinement } = start;
  const { restore } = files;
  if (restore === undefined) throw new TypeError("nothing to prepare a machine from");
  // What comes later finds nothing to load.
  const pagemap = hostLibrary().vmm_pagemap_open();
  const attention = openWatch();
  if (files.disks.length > 0 || files.cdrom !== undefined) ioLibrary();
  if (files.interfaces.length > 0) {
    netLibrary();
    portLibrary();
  }
  const ground = settle(options.engine, confinement);
  const { engine: name } = ground;
  using stack = new DisposableStack();
  const image = stack.use(new MachineImage(memoryRanges(options.memory, restore.rom)));
  const state = loadSnapshots(image, openInputs(restore, descriptors));
  const virtual = applyClock(image, state.cpu);
  const processor = { portable: options.portable, ...processorOf(restore) };
  const engine = stack.use(Engine.open(name, image, { virtual }, processor));
  const machine = { image, engine, state };
  const preparation = { ground, pagemap, attention, machine };
  const left = [...descriptors];
  const file = changed ? left.pop() : undefined;
  // Virtual time would be spent, too.
  if (name === "unicorn" && !virtual && state.mapped) {
    const opened = engine.cpuBytes().slice();
    runForNothing(machine, options, files);
    asOpened(machine, opened);
    if (file !== undefined) {
      goOnForNothing(preparation, start, file, tryOn);
      asOpened(machine, opened);
    }
  } else if (file !== undefined) {
    loadChanged(image, file);
    closeSync(file);
  }
  for (const descriptor of left) closeSync(descriptor);
  stack.move();
  return preparation;
}

/**
 * Memory then has what changed later, and nothing else: what is written over that finds these pages there.
 * @param file closed here
 */
function goOnForNothing(
  preparation: Preparation,
  start: StartMessage,
  file: number,
  tryOn: TryOn,
): void {
  const { image, engine } = preparation.machine;
  using written = new DirtyLog(engine, image.memory).follow();
  // Once more by itself: which pages those are.
  loadChanged(image, file);
  const changed = written.collect().copy();
  written.clear();
  const { options, files } = start;
  const restore: RestoreDescription = {
    ...(files.restore as RestoreDescription),
    inputs: [{ stream: false, verify: false, eager: true }],
    cpuid: [],
    prepared: true,
  };
  const own = { ...files, disks: [], cdrom: undefined, interfaces: [], restore };
  const backends = () => idleBackends(files, options.devices);
  tryOn(preparation, { ...start, files: own }, [file], backends);
  // Devices write to their rings when they go on.
  const devices = written.collect().copy();
  devices.removeAll(changed);
  for (const { page, count } of devices.runs()) image.revert(page * PAGE, count * PAGE);
}

function loadChanged(image: MachineImage, file: number): void {
  loadSnapshots(image, [{ source: new FileSource(file), file, verify: false, eager: true }]);
}

/** A machine's registers are nobody's, and the engine is as it was opened: a snapshot needn't have all MSRs. */
function asOpened({ image, engine }: PreparedMachine, opened: Uint8Array): void {
  engine.setDeadline(Infinity);
  new Uint8Array(image.cpu.buffer, image.cpu.byteOffset).set(opened);
  engine.loadCpu();
  image.forgetRegisters();
}

/** What memory holds is as before. */
function runForNothing(
  { image, engine, state }: PreparedMachine,
  options: StartMessage["options"],
  files: StartMessage["files"],
): void {
  const quiet = { output: () => {}, debug: () => {}, hostTime: Date.now };
  const backends = () => idleBackends(files, options.devices);
  const host = machineOptions(options, { ...quiet, backends });
  let machine!: ClassicMachine;
  using written = new DirtyLog(engine, image.memory).follow();
  for (let i = 0; i < OFTEN; i++) {
    image.forgetRegisters();
    machine = new ClassicMachine(image, engine, host);
    machine.reset();
    takeOn({ image, engine, machine }, state);
  }
  const vcpu = new Vcpu(engine, machine);
  vcpu.halted = state.host.halted;
  const { clock } = machine;
  clock.timer(() => Atomics.store(vcpu.attention, 0, 1)).arm(clock.sample() + SPELL * NS);
  // How it stops is no matter.
  vcpu.run();
  for (const { page, count } of written.collect().runs()) {
    image.revert(page * PAGE, count * PAGE);
    // It will be written again: by the guest, and before that where it has changed since.
    image.populate(page * PAGE, count * PAGE);
  }
}
