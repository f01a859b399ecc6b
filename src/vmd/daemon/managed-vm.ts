/** One VM of the daemon: its states, and what leads from one to the next. */
import { closeSync, readFileSync } from "node:fs";
import type { MigrationEvent } from "../migration/messages.ts";
import type { RequestOf, VmState, VmStatus } from "../protocol.ts";
import { newId } from "../snapshot/restored.ts";
import { type RestoreLaunch, VmHost } from "../vm-host.ts";
import type { BalloonState, Ending, StreamName } from "../vm-messages.ts";
import { VmError } from "../vm-options.ts";
import type { Wanted, WarmPool } from "../warm-process.ts";
import { NativeError } from "../../vmm/native.ts";
import { DiskLocks } from "./disk-locks.ts";
import { Holdings, type HoldingsContext } from "./holdings.ts";
import type { Incoming } from "./incoming.ts";
import { launchOptions, openedRecord } from "./launch.ts";
import { formatMac } from "../net/mac.ts";
import { Moving } from "./moving.ts";
import { requireSnapshots, snapshotConfig } from "./snapshot-config.ts";
import { NetworkError } from "../net/index.ts";
import { RefusalError } from "./refusal.ts";
import type { Owner, VmSettings } from "./settings.ts";
import { GlobError } from "../share/glob.ts";
import { ShareError } from "../share/share-host.ts";

/** vmd's times, ms: a guest has so long to acknowledge a shutdown, and then to finish it. */
const ACKNOWLEDGE = 3_000;
const FINISH = 120_000;
/** A process that was told to end has so long. */
const KILL = 10_000;
/** So many resets, each so soon after the one before, end a VM: ms. */
const REBOOTS = 3;
const REBOOT_INTERVAL = 6_000;
const PAGE = 4096;

/** What the VMs of a daemon share. */
export interface VmContext extends HoldingsContext {
  readonly pool: WarmPool;
  /** Told when a VM has stopped. */
  readonly stopped: (vm: ManagedVm) => void;
}

export class ManagedVm {
  readonly id: number;
  settings: VmSettings;
  readonly #context: VmContext;
  #state: VmState = "stopped";
  #host: VmHost | undefined;
  #holdings: Holdings | undefined;
  #moving = new Moving(undefined);
  /** Who started it: they operate it while it runs. */
  #operator: Owner | undefined;
  #engine: string | undefined;
  #boot: string | undefined;
  #prefetched: number | undefined;
  #startedAt = 0;
  #reboots = 0;
  #rebootTimes: number[] = [];
  #timer: Timer | undefined;
  #ended: Promise<Ending> | undefined;
  #lastEnding: Ending | undefined;

  constructor(id: number, settings: VmSettings, context: VmContext) {
    this.id = id;
    this.settings = settings;
    this.#context = context;
  }

  get name(): string {
    return this.settings.name;
  }

  get state(): VmState {
    return this.#state;
  }

  /** Whether there is a process, or soon will be. */
  get isUp(): boolean {
    return this.#state !== "stopped" && this.#state !== "waiting";
  }

  get pid(): number | undefined {
    return this.#host?.pid;
  }

  get tty(): string | undefined {
    return this.#holdings?.resources.tty;
  }

  /** Where it comes from and goes to, in this run. */
  get moving(): Moving {
    return this.#moving;
  }

  /** Link addresses of its interfaces, while it runs. */
  get macs(): string[] {
    return (this.#holdings?.ends ?? []).map(({ mac }) => formatMac(mac));
  }

  /** Where its interfaces lead, while it runs. */
  get interfaces(): string[] {
    return (this.#holdings?.ends ?? []).map(({ where }) => where);
  }

  /** Pages that were prefetched when it was restored. */
  get prefetched(): number | undefined {
    return this.#prefetched;
  }

  get lastEnding(): Ending | undefined {
    return this.#lastEnding;
  }

  /** Who may operate it now: who started it while it runs, else its owner. */
  get operator(): Owner {
    return this.isUp ? (this.#operator ?? this.settings.owner) : this.settings.owner;
  }

  /** It is in the queue of a staggered start, or not any more. */
  set queued(queued: boolean) {
    if (this.isUp) return;
    this.#state = queued ? "waiting" : "stopped";
  }

  /**
   * Starts it.
   * @param operator who asked.
   * @param attach whether to follow the console from its first byte on.
   * @param restore snapshots that it goes on from; closed here
   * @param incoming where it comes from, when that is another VM
   * @param wanted a machine that a process may wait with
   * @returns then: the console's socket, the caller's to close.
   * @throws RefusalError
   */
  async start(
    operator: Owner,
    attach = false,
    restore?: RestoreLaunch,
    incoming?: Incoming,
    wanted?: Wanted,
  ): Promise<number | undefined> {
    if (this.isUp) throw new RefusalError("EALREADY", "Operation already in progress");
    const { log, confine } = this.#context;
    const before = this.#state;
    this.#state = "starting";
    this.#operator = operator;
    this.#reboots = 0;
    this.#rebootTimes = [];
    this.#moving = new Moving(incoming);
    try {
      const { settings } = this;
      const holdings = new Holdings(this.id, settings, this.#context, {
        restored: restore !== undefined,
        disksLater: incoming !== undefined,
      });
      this.#holdings = holdings;
      const { resources } = holdings;
      const options = launchOptions(settings, resources);
      await holdings.connect();
      this.#moving.locks = new DiskLocks(resources.disks);
      const host = new VmHost({
        ...holdings.launch,
        options,
        restore,
        record: openedRecord(this, resources),
        attach: attach ? [{ stream: "console", lossless: false, late: false }] : [],
        confine,
        process: restore === undefined ? undefined : this.#context.pool.take(wanted),
      });
      holdings.given();
      this.#host = host;
      host.onEvent = (event) => {
        if (event.kind === "rebooted") this.#rebooted(event.by);
        else if (event.kind === "acknowledged") this.#acknowledged();
        else if (event.kind === "shutting-down") this.#shuttingDown();
        else if (event.kind === "trouble") log.warn(event.text, { vm: this.name });
        else if (event.kind === "migration") this.#migrates(event.event, host);
        else if (event.kind !== "shutdown")
          log.debug("unexpected message", { vm: this.name, kind: event.kind });
      };
      this.#ended = host.ended.then((ending) => this.#hasEnded(ending));
      incoming?.started();
      const { engine, why, boot, unconfined, prefetched } = await host.running;
      this.#engine = engine;
      this.#boot = boot;
      this.#prefetched = prefetched;
      this.#startedAt = performance.now();
      // It may have been stopped, or have ended, meanwhile.
      if (this.#host === host && this.state === "starting") this.#state = "running";
      log.info("started", { vm: this.name, id: this.id, pid: host.pid, engine, tty: this.tty });
      if (why !== "") log.debug(why, { vm: this.name });
      if (unconfined !== "") log.warn(unconfined, { vm: this.name });
      return host.attached.at(0);
    } catch (error) {
      if (this.#host === undefined) {
        for (const { descriptor } of restore?.inputs ?? []) closeSync(descriptor);
        if (restore?.later !== undefined) closeSync(restore.later.hears);
        this.#release();
        this.#state = before === "waiting" ? "stopped" : before;
      } else {
        for (const descriptor of this.#host.attached) closeSync(descriptor);
        await this.#ended;
      }
      if (error instanceof ShareError || error instanceof GlobError) {
        throw new RefusalError("EINVAL", error.message);
      }
      if (error instanceof NetworkError) throw new RefusalError("NETWORK", error.message);
      if (error instanceof VmError || error instanceof NativeError) {
        throw new RefusalError("EINVAL", error.message);
      }
      throw error;
    }
  }

  /**
   * Stops it. @param force without asking the guest.
   * @throws RefusalError when it doesn't run
   */
  stop(force: boolean): void {
    const host = this.#host;
    if (host === undefined) {
      throw new RefusalError("NOTRUNNING", "cannot stop vm that is not running");
    }
    const { log } = this.#context;
    // Its disks may be another's: it mustn't run for its shutdown.
    if (this.#moving.locks.released) force = true;
    if (this.#state === "paused" && !force) host.tell({ kind: "unpause" });
    const asked = this.#state === "stopping";
    this.#state = "stopping";
    if (force) {
      log.info("terminated by request", { vm: this.name });
      this.#terminate();
      return;
    }
    if (asked) return;
    log.info("asked to shut down", { vm: this.name });
    this.#after(ACKNOWLEDGE, "the guest did not acknowledge the shutdown");
    host.tell({ kind: "shutdown" });
  }

  /** @throws RefusalError */
  async pause(): Promise<void> {
    await this.#running().ask({ kind: "pause" }, "paused");
    if (this.#state === "running") this.#state = "paused";
    this.#context.log.info("paused", { vm: this.name });
  }

  /** @throws RefusalError when it has no balloon */
  async balloon(target: number | undefined): Promise<BalloonState> {
    const { balloon } = await this.#running().ask({ kind: "balloon", target }, "balloon");
    if (balloon === undefined) throw new RefusalError("EINVAL", "the vm has no balloon");
    return balloon;
  }

  /** @throws RefusalError */
  async unpause(): Promise<void> {
    const host = this.#running();
    const failure = await this.#moving.locks.take(0);
    if (failure !== undefined) throw new RefusalError("DISK", failure);
    await host.ask({ kind: "unpause" }, "unpaused");
    if (this.#state === "paused") this.#state = "running";
    this.#context.log.info("unpaused", { vm: this.name });
  }

  /**
   * Begins to send it elsewhere.
   * @returns the descriptor that it comes out of; the caller's to close
   * @throws RefusalError
   */
  send(request: RequestOf<"send">): number {
    const host = this.#running();
    if (this.#state !== "running") throw new RefusalError("EBUSY", `the vm is ${this.#state}`);
    requireSnapshots(this.settings);
    const descriptor = this.#moving.send(host, snapshotConfig(this, newId()), request);
    this.#context.log.info("is being sent", { vm: this.name, live: request.live });
    return descriptor;
  }

  /** A socket to one of its streams; the caller's to close. @throws RefusalError */
  attach(stream: StreamName, options: { lossless: boolean; late: boolean }): number {
    return this.#running().attach(stream, options);
  }

  /** A socket to which an interface's frames are copied; the caller's to close. @throws RefusalError */
  capture(place: number): number {
    const host = this.#running();
    const { record } = this.settings;
    if (record !== undefined) {
      throw new RefusalError("EINVAL", `the vm is recorded in ${record.path}, with its frames`);
    }
    if (this.#holdings?.ends[place] === undefined) {
      throw new RefusalError("EINVAL", `the vm has no interface ${place}`);
    }
    return host.capture(place);
  }

  /** The process behind it. @throws RefusalError when there is none */
  get host(): VmHost {
    return this.#running();
  }

  /** Resolves when it has stopped: at once when it doesn't run. */
  async whenStopped(): Promise<void> {
    await this.#ended;
  }

  status(): VmStatus {
    const accounts = this.#context.accounts();
    const { uid, gid } = this.operator;
    const up = this.#host !== undefined;
    const group = gid === undefined ? "" : `:${accounts.groupName(gid)}`;
    return {
      id: this.id,
      name: this.name,
      pid: this.#host?.pid ?? null,
      vcpus: 1,
      maxMemory: this.settings.memory,
      currentMemory: up ? residentMemory(this.#host!.pid) : null,
      tty: this.tty ?? null,
      owner: `${accounts.userName(uid)}${group}`,
      state: this.#state,
      engine: up ? (this.#engine ?? null) : null,
      boot: up ? (this.#boot ?? null) : null,
      uptime: up && this.#startedAt > 0 ? (performance.now() - this.#startedAt) / 1000 : null,
      reboots: this.#reboots,
      configured: this.settings.configured,
    };
  }

  #running(): VmHost {
    if (this.#host === undefined) throw new RefusalError("NOTRUNNING", "vm not running");
    return this.#host;
  }

  #migrates(event: MigrationEvent, host: VmHost): void {
    this.#moving.heard(event, host, this.settings);
    if (event.stage !== "over") return;
    const { outcome, why } = event;
    this.#context.log.info(`sending it: ${outcome}`, { vm: this.name, why });
    if (outcome === "unknown" && this.#state === "running") this.#state = "paused";
  }

  #acknowledged(): void {
    if (this.#state !== "stopping") return;
    this.#context.log.debug("the guest acknowledged the shutdown", { vm: this.name });
    this.#after(FINISH, "the guest did not finish its shutdown");
  }

  // It may mean to reboot, and then goes on. One that halts waits for a key that nobody will press.
  #shuttingDown(): void {
    if (this.#state === "stopping") return;
    this.#context.log.info("the guest shuts down", { vm: this.name });
    this.#after(ACKNOWLEDGE, "the guest did neither reset nor power off");
  }

  #after(time: number, why: string): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#context.log.info(`${why}: terminated`, { vm: this.name });
      this.#state = "stopping";
      this.#terminate();
    }, time);
  }

  #terminate(): void {
    clearTimeout(this.#timer);
    const host = this.#host;
    host?.stop();
    this.#timer = setTimeout(() => host?.kill(), KILL);
  }

  #rebooted(by: string): void {
    const { log } = this.#context;
    this.#reboots++;
    log.info(by.slice(by.indexOf(":") + 2), { vm: this.name, reboots: this.#reboots });
    // Asked to go, it went: by a reset.
    if (this.#state === "stopping") {
      this.#terminate();
      return;
    }
    clearTimeout(this.#timer);
    const now = performance.now();
    const last = this.#rebootTimes.at(-1) ?? this.#startedAt;
    if (now - last >= REBOOT_INTERVAL) this.#rebootTimes = [];
    this.#rebootTimes.push(now);
    if (this.#rebootTimes.length < REBOOTS) return;
    log.warn(`${REBOOTS} resets within ${REBOOT_INTERVAL / 1000} s of each other: stopped`, {
      vm: this.name,
    });
    this.#state = "stopping";
    this.#terminate();
  }

  #hasEnded(ending: Ending): Ending {
    clearTimeout(this.#timer);
    this.#lastEnding = ending;
    this.#moving.ended(ending.message);
    this.#host = undefined;
    this.#startedAt = 0;
    this.#state = "stopped";
    this.#release();
    const text = ending.message.startsWith(`${this.name}: `)
      ? ending.message.slice(this.name.length + 2)
      : ending.message;
    const { log, stopped } = this.#context;
    const fields = { vm: this.name, image: ending.image };
    if (ending.kind === "crash") log.warn(text, fields);
    else log.info(text, fields);
    stopped(this);
    return ending;
  }

  #release(): void {
    this.#moving[Symbol.dispose]();
    this.#holdings?.[Symbol.dispose]();
    this.#holdings = undefined;
  }
}

/** RSS of a process, bytes; 0 when it is gone. */
function residentMemory(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]) * PAGE;
  } catch {
    return 0;
  }
}
