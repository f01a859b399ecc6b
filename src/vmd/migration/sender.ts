/**
 * Sends a machine out of a VM's process: at once while its guest stands still, or in rounds while it
 * runs, of what it wrote in the round before, until what is left can be sent within the time that it
 * may stand still. What the two sides say to each other is in lines.ts.
 *
 * Until COMMIT was said every failure has the guest go on as if nothing had been. From then on to
 * RUNNING nobody here knows where it runs: it stays as it is.
 */
import type { DirtyPages } from "../../vmm/dirty-log.ts";
import { NativeError } from "../../vmm/native.ts";
import { PAGE, RecordType, type Run, SnapshotError } from "../../vmm/snapshot/format.ts";
import { SnapshotWriter } from "../../vmm/snapshot/writer.ts";
import { DiskError } from "../disk/index.ts";
import { machineConfig, quiesce, saveRegisters } from "../snapshot/save.ts";
import type { VmLife } from "../vm-life.ts";
import type { MigrationEvent, SendRequest } from "./messages.ts";
import { failureOf, Line } from "./lines.ts";
import { BATCH, batches, usedBatches } from "./passes.ts";
import type { MigrationStream } from "./stream.ts";

/** A guest that runs waits no longer than this at a time, ms. */
const SLICE = 2;
/** A receiver that can answer says so within this time from the start on, ms. */
const GREETING = 5000;
/** ... and through a one-way pipe nothing is heard for so long after the end, ms. */
const SILENCE = 1000;
/** The other side may do nothing for so long, ms. */
const PATIENCE = 60_000;
/** A stream without room is looked at so often, ms. */
const LOOK = 1000;
/** While only a greeting is waited for, the guest's writes are looked at so often, ms. */
const PAUSE = 20;
/** Rates of less than so many bytes say little. */
const MEASURABLE = 2 ** 20;

/** What a sender needs of the process around it. */
export interface SenderHost {
  /** Descriptor of vmm_pagemap_open. */
  readonly pagemap: number;
  /** Has the process look after the stream: whether room is waited for, too. */
  watch(room: boolean): void;
  /** Has the process look again, so much later, ms. */
  later(time: number): void;
  post(event: MigrationEvent): void;
  /** Makes durable what the guest wrote to its disks. @throws DiskError */
  flushDisks(): void;
}

type Phase =
  /** The guest runs. */
  | "copying"
  /** It stands still: from here on. */
  | "stopping"
  /** All but END is written. */
  | "saved"
  /** END is written. */
  | "ended"
  | "committed"
  /** The guest goes on once its disks are locked again. */
  | "relocking"
  /** Nobody knows: it stands still until somebody says what to do. */
  | "unknown"
  | "over";

export class Sender {
  readonly #host: SenderHost;
  readonly #life: VmLife;
  readonly #stream: MigrationStream;
  readonly #request: SendRequest;
  readonly #writer: SnapshotWriter;
  readonly #dirty: DirtyPages | undefined;
  readonly #started = performance.now();
  #phase: Phase = "copying";
  #pass: Iterator<Run[]>;
  #round = 0;
  #roundStart = { at: performance.now(), bytes: 0, pages: 0 };
  /** Bytes per ms. */
  #rate = 0;
  /** The receiver waits for COMMIT. */
  #greeted = false;
  #unlocked = false;
  #endQueued = false;
  /** The guest runs until then, ms. */
  #notBefore = 0;
  #heard = performance.now();
  #stoodStill = 0;
  #sentBytes = 0;
  #closed = false;
  #why = "";

  /** @throws NativeError when the engine can't tell what the guest writes */
  constructor(host: SenderHost, life: VmLife, stream: MigrationStream, request: SendRequest) {
    this.#host = host;
    this.#life = life;
    this.#stream = stream;
    this.#request = request;
    this.#writer = new SnapshotWriter((bytes) => stream.send(bytes), { recordPages: BATCH });
    this.#dirty = request.live ? life.dirty.follow() : undefined;
    this.#pass = usedBatches(life.image, host.pagemap);
    const config = JSON.parse(request.config) as object;
    this.#writer.json(RecordType.CONFIG, { ...config, ...machineConfig(life) });
    host.watch(false);
  }

  /** Whether the guest has to stand still. */
  get frozen(): boolean {
    return this.#phase !== "copying" && this.#phase !== "over";
  }

  get over(): boolean {
    return this.#phase === "over";
  }

  /** The other side has the guest: this one is to end. */
  get sent(): boolean {
    return this.over && this.#why === "";
  }

  /** Whether room in the stream is waited for. */
  get full(): boolean {
    return !this.#stream.empty;
  }

  /** Whether there is a stream still. */
  get open(): boolean {
    return !this.#closed;
  }

  get descriptor(): number {
    return this.#stream.descriptor;
  }

  /** Does what can be done now; while the guest could run, only for a moment. */
  step(): void {
    if (this.#closed) return;
    try {
      this.#listen();
      if (!this.#closed) this.#go();
      if (!this.#closed) this.#hurry();
    } catch (error) {
      const expected =
        error instanceof SnapshotError ||
        error instanceof NativeError ||
        error instanceof DiskError;
      if (!expected) throw error;
      this.#fail(error.message);
    }
  }

  /** vmd has let go of the disks' locks. */
  unlocked(): void {
    this.#unlocked = true;
  }

  /** It has them again, or can't. */
  locked(failure: string | undefined): void {
    if (this.#phase !== "relocking") return;
    if (failure !== undefined) {
      this.#why = `${this.#why}; ${failure}`;
      this.#giveUp();
      return;
    }
    this.#resume();
  }

  /** Somebody says that the guest is to go on here, and that its disks are locked. */
  proceed(): void {
    if (this.#phase !== "unknown") return;
    this.#phase = "over";
    this.#life.machine.proceed();
    this.#life.machine.syncTime();
  }

  /** The machine is about to go. */
  abandon(why: string): void {
    if (this.#closed) return;
    this.#why = why;
    this.#phase = "over";
    this.#close();
    this.#tell("failed");
  }

  #listen(): void {
    for (const line of this.#stream.read()) {
      this.#heard = performance.now();
      if (line === Line.HELLO) this.#greeted = true;
      else if (line === Line.READY && this.#phase === "ended") this.#commit();
      else if (line === Line.RUNNING && this.#phase === "committed") this.#succeed();
      else if (line === Line.UNDELIVERED) this.#fail("the other side reads no more", true);
      else this.#fail(failureOf(line) ?? "the other side says what is no answer");
      if (this.#closed) return;
    }
    if (this.#stream.ended) this.#fail("the other side is gone");
  }

  #go(): void {
    const early = this.#notBefore - performance.now();
    if (early > 0 && this.#phase === "copying") {
      this.#host.later(early);
      return;
    }
    if (!this.#request.live && this.#phase === "copying") this.#freeze();
    const from = performance.now();
    for (;;) {
      if (!this.#stream.flush()) break;
      if (!this.#produce()) break;
      if (this.#phase === "copying" && performance.now() - from > SLICE) break;
    }
    if (this.#phase !== "copying") return;
    // The guest gets as much time as it lost.
    const now = performance.now();
    const rest = Math.max(now - from, this.#notBefore - now);
    this.#notBefore = now + rest;
    this.#host.watch(this.full);
    this.#host.later(this.full ? LOOK : rest);
  }

  /** Writes the next record. @returns whether there was one, or may be one at once */
  #produce(): boolean {
    switch (this.#phase) {
      case "copying":
      case "stopping": {
        const { done, value } = this.#pass.next();
        if (done === true) return this.#phase === "copying" ? this.#nextRound() : this.#save();
        if (value.length > 0) this.#writer.memory(this.#life.image.memory, value);
        return true;
      }
      case "saved":
        return this.#end();
      default:
        return false;
    }
  }

  #nextRound(): boolean {
    const { downtime, rounds, answers } = this.#request;
    const now = performance.now();
    const { at, bytes, pages } = this.#roundStart;
    const sent = this.#writer.written - bytes;
    if (sent >= MEASURABLE || this.#rate === 0) this.#rate = sent / Math.max(now - at, 0.1);
    const dirty = (this.#dirty as DirtyPages).collect();
    const left = dirty.count;
    const fits = (left * PAGE) / this.#rate <= downtime;
    // One that may still say that it can answer.
    const must = answers === "surely" || now - this.#started < GREETING;
    const wait = !this.#greeted && must;
    if (fits && wait) {
      this.#notBefore = now + PAUSE;
      return false;
    }
    this.#round++;
    this.#host.post({
      stage: "round",
      round: this.#round,
      pages: this.#writer.pages - pages,
      left,
      time: now - at,
    });
    this.#roundStart = { at: now, bytes: this.#writer.written, pages: this.#writer.pages };
    if (fits || this.#round >= rounds) {
      this.#freeze();
      return true;
    }
    this.#pass = batches(dirty.copy().runs());
    dirty.clear();
    return true;
  }

  #freeze(): void {
    const { machine } = this.#life;
    this.#stoodStill = performance.now();
    quiesce(this.#life);
    try {
      this.#host.flushDisks();
    } catch (error) {
      machine.proceed();
      throw error;
    }
    this.#phase = "stopping";
    this.#host.post({ stage: "flushed" });
    if (this.#dirty !== undefined) this.#pass = batches(this.#dirty.collect().runs());
  }

  #save(): boolean {
    saveRegisters(this.#life, this.#writer);
    this.#phase = "saved";
    this.#heard = performance.now();
    return true;
  }

  #end(): boolean {
    const { answers } = this.#request;
    if (!this.#endQueued) {
      const late = performance.now() - this.#started >= GREETING;
      const may = this.#greeted || (answers === "perhaps" && late);
      if (!this.#unlocked || !may) return false;
      this.#endQueued = true;
      this.#writer.end();
      return true;
    }
    // It is with whoever carries it.
    this.#phase = "ended";
    this.#heard = performance.now();
    return false;
  }

  #commit(): void {
    this.#phase = "committed";
    this.#stream.say(Line.COMMIT);
  }

  #hurry(): void {
    const silent = performance.now() - this.#heard;
    switch (this.#phase) {
      case "copying":
      case "stopping":
        if (this.#sentSince()) this.#heard = performance.now();
        else if (silent > PATIENCE) this.#fail("the other side takes no more");
        return;
      case "saved":
        if (silent > PATIENCE) this.#fail("the other side says nothing");
        return;
      case "ended":
        if (!this.#greeted && silent > SILENCE) this.#fail("nothing comes back through the pipe");
        else if (silent > PATIENCE) this.#fail("the other side doesn't get ready");
        return;
      case "committed":
        if (silent > PATIENCE) this.#fail("the other side doesn't say that it runs");
    }
  }

  #sentSince(): boolean {
    const { written } = this.#writer;
    if (written === this.#sentBytes) return false;
    this.#sentBytes = written;
    return true;
  }

  /** @param undelivered the receiver can't have got what was sent last */
  #fail(why: string, undelivered = false): void {
    if (this.#closed) return;
    this.#why = why;
    const nobody = this.#phase === "ended" && !this.#greeted;
    if ((this.#phase === "committed" || nobody) && !undelivered) {
      this.#giveUp();
      return;
    }
    // The receiver sees the end of the stream, and runs nothing.
    this.#close();
    if (this.frozen) {
      this.#phase = "relocking";
      this.#host.post({ stage: "relock" });
      return;
    }
    this.#resume();
  }

  #resume(): void {
    if (this.frozen) {
      this.#life.machine.proceed();
      this.#life.machine.syncTime();
    }
    this.#phase = "over";
    this.#tell("failed");
  }

  #giveUp(): void {
    this.#phase = "unknown";
    this.#close();
    this.#tell("unknown");
  }

  #succeed(): void {
    this.#phase = "over";
    this.#close();
    this.#tell("sent");
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#dirty?.[Symbol.dispose]();
    this.#stream.close();
  }

  #tell(outcome: "sent" | "failed" | "unknown"): void {
    this.#host.post({
      stage: "over",
      outcome,
      why: this.#why,
      rounds: this.#round,
      pages: this.#writer.pages,
      bytes: this.#writer.written,
      stoodStill: this.#stoodStill === 0 ? 0 : performance.now() - this.#stoodStill,
    });
  }
}
