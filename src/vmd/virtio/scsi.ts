/**
 * SCSI host device: virtio 1.2, § 5.6. One target with one logical unit, a CD-ROM drive; and the
 * REPORT LUNS well-known logical unit.
 *
 * Reads take their time: their chains are out until the backend is done. Everything else is
 * answered at once. There are no events to report, so the event queue's buffers stay where they are.
 */
import { declareRegisters, u32, u8, type Registers } from "../../vmm/registers.ts";
import { CDB_SIZE, CdromAnswer, execute, ScsiStatus, SenseCode, SenseKey } from "./cdrom.ts";
import { SENSE_SIZE, senseData } from "./cdrom-data.ts";
import type { Chain } from "./chain.ts";
import type { VirtioDevice, VirtioTransport } from "./device.ts";
import { Addressed, address, ScsiResponse, TaskManagement } from "./scsi-control.ts";
import { LATER, serve, TAKEN } from "./serve.ts";

/** The disc. */
export interface CdromBackend {
  /** Bytes; of them, whole blocks of 2048 are seen. */
  readonly size: number;
  /**
   * Copies from the disc into the device-writable part of a chain, and says when it is done: at
   * once, or later, but once. After a reset the chain holds nothing, and takes nothing.
   */
  read(
    offset: number,
    chain: Chain,
    chainOffset: number,
    length: number,
    done: (ok: boolean) => void,
  ): void;
  /** Waits until all reads that are out are done, and were told of. */
  settle?(): void;
  /** Ends reads that are out: nothing of the guest's is touched any more. */
  abandon?(): void;
}

const CONTROL = 0;
const REQUEST = 2;
const QUEUE = 128;

const CONFIG_SIZE = 36;
// Offsets of what the driver may write, § 5.6.4.
const SENSE_SIZE_FIELD = 20;
const CDB_SIZE_FIELD = 24;
/** SPC-3, § 4.5.1: sense data are no longer. */
const SENSE_MAX = 252;
/** SPC-3, § 4.3.3: nor is a command. */
const CDB_MAX = 260;

/** Of a request, before the command; of its answer, before the sense data. */
const HEADER = 19;
const ANSWER = 12;

const declaration = {
  senseSize: u32(96),
  cdbSize: u32(32),
  /** The tray is. */
  locked: u8(0),
};

export const ScsiRegisters = declareRegisters("virtio-scsi", declaration);

/** A read that is out. */
class Read {
  chain!: Chain;
  id = 0;
  idHigh = 0;
  bytes = 0;
  generation = 0;
  /** What answers it if a task management function ended it; else 0. */
  ended = 0;
  readonly done: (ok: boolean) => void;

  constructor(done: (read: Read, ok: boolean) => void) {
    this.done = (ok) => done(this, ok);
  }
}

export class Scsi implements VirtioDevice {
  readonly type = 8;
  readonly features = [0, 0] as const;
  readonly queueSizes = [QUEUE, QUEUE, QUEUE];
  readonly configSize = CONFIG_SIZE;
  readonly #r: Registers<typeof declaration>;
  readonly #transport: VirtioTransport;
  readonly #backend: CdromBackend;
  readonly #config = new DataView(new ArrayBuffer(CONFIG_SIZE));
  readonly #request = new Uint8Array(HEADER + CDB_MAX);
  readonly #requestView = new DataView(this.#request.buffer);
  readonly #cdb = new Uint8Array(CDB_SIZE);
  readonly #answer = new CdromAnswer();
  #response = new Uint8Array(0);
  #responseView = new DataView(this.#response.buffer);
  readonly #control = new TaskManagement();
  readonly #out: Read[] = [];
  readonly #idle: Read[] = [];
  /** Counts resets: a read that was out then has no chain to give back. */
  #generation = 0;
  /** A task management function that waits for the reads it ended, and how many. */
  #held: Chain | undefined;
  #holding = 0;
  #serving = false;

  constructor(
    registers: Registers<typeof declaration>,
    transport: VirtioTransport,
    backend: CdromBackend,
  ) {
    this.#r = registers;
    this.#transport = transport;
    this.#backend = backend;
    const config = this.#config;
    config.setUint32(0, 1, true); // num_queues
    config.setUint32(4, QUEUE - 2, true); // seg_max
    config.setUint32(8, 8192, true); // max_sectors: 4 MiB
    config.setUint32(12, 1, true); // cmd_per_lun
    config.setUint32(16, 0, true); // event_info_size
    config.setUint16(28, 0, true); // max_channel
    config.setUint16(30, 1, true); // max_target
    config.setUint32(32, 1, true); // max_lun
  }

  /** Reads that are out. */
  get outstanding(): number {
    return this.#out.length;
  }

  quiesce(): undefined {
    this.#backend.settle?.();
  }

  readConfig(offset: number): number {
    this.#config.setUint32(SENSE_SIZE_FIELD, this.#r.senseSize, true);
    this.#config.setUint32(CDB_SIZE_FIELD, this.#r.cdbSize, true);
    return this.#config.getUint8(offset);
  }

  /** § 5.6.4.1: only two fields are the driver's. What is too large for them isn't taken. */
  writeConfig(offset: number, size: number, value: number): void {
    if (size !== 4) return;
    if (offset === SENSE_SIZE_FIELD && value <= SENSE_MAX) this.#r.senseSize = value;
    if (offset === CDB_SIZE_FIELD && value <= CDB_MAX) this.#r.cdbSize = value;
  }

  notify(index: number): void {
    const queue = this.#transport.queue(index);
    if (index === CONTROL) {
      serve(this.#transport, queue, this.#answerControl);
    } else if (index === REQUEST) {
      this.#serving = true;
      serve(this.#transport, queue, this.#answerRequest);
      this.#serving = false;
    }
  }

  poll(): void {
    if (this.#held === undefined && this.#transport.queue(CONTROL).waiting) this.notify(CONTROL);
    if (this.#transport.queue(REQUEST).waiting) this.notify(REQUEST);
  }

  reset(): void {
    this.#backend.abandon?.();
    this.#r.resetAll();
    this.#generation++;
    // What a backend still writes goes nowhere: that memory is the driver's again.
    for (const read of this.#out) read.chain.clear(0);
    this.#out.length = 0;
    this.#held = undefined;
    this.#holding = 0;
  }

  // --- requests, § 5.6.6.1

  readonly #answerRequest = (chain: Chain): number => {
    const { cdbSize, senseSize } = this.#r;
    if (chain.writableBytes < ANSWER) {
      this.#transport
        .queue(REQUEST)
        .fail(`a request has ${chain.writableBytes} bytes for its answer`);
      return 0;
    }
    const had = chain.read(0, this.#request);
    const dataOut = chain.readableBytes - HEADER - cdbSize;
    const dataIn = chain.writableBytes - ANSWER - senseSize;
    // § 5.6.6.1.1: an error of the driver; data in both directions would need a feature.
    if (dataOut < 0 || dataIn < 0 || (dataOut > 0 && dataIn > 0)) {
      return this.#respond(chain, ScsiResponse.FAILURE, 0);
    }
    const at = address(this.#request, 0);
    if (at !== Addressed.UNIT && at !== Addressed.WELL_KNOWN) {
      return this.#respond(chain, ScsiResponse.BAD_TARGET, 0);
    }
    const end = Math.min(had, HEADER + cdbSize);
    for (let i = 0; i < CDB_SIZE; i++) {
      this.#cdb[i] = HEADER + i < end ? this.#request[HEADER + i] : 0;
    }
    return this.#execute(chain, dataIn, at === Addressed.WELL_KNOWN);
  };

  #execute(chain: Chain, dataIn: number, wellKnown: boolean): number {
    const answer = this.#answer;
    execute(this.#cdb, this.#backend.size, this.#r.locked !== 0, answer, wellKnown);
    // § 5.6.6.1.1: no room for what the command wants to send.
    if (answer.length > dataIn || answer.bytes > dataIn) {
      return this.#respond(chain, ScsiResponse.OVERRUN, 0);
    }
    this.#r.locked = answer.locked ? 1 : 0;
    if (answer.bytes > 0) return this.#read(chain, answer.offset, answer.bytes);
    if (answer.length > 0) {
      const { senseSize } = this.#r;
      chain.write(ANSWER + senseSize, answer.data.subarray(0, answer.length));
    }
    return this.#respond(chain, ScsiResponse.OK, answer.length);
  }

  #read(chain: Chain, offset: number, bytes: number): number {
    const read = this.#idle.pop() ?? new Read(this.#done);
    read.chain = chain;
    read.id = this.#requestView.getUint32(8, true);
    read.idHigh = this.#requestView.getUint32(12, true);
    read.bytes = bytes;
    read.generation = this.#generation;
    read.ended = 0;
    this.#out.push(read);
    this.#backend.read(offset, chain, ANSWER + this.#r.senseSize, bytes, read.done);
    return TAKEN;
  }

  readonly #done = (read: Read, ok: boolean): void => {
    const { chain, ended, bytes } = read;
    // Of before a reset, or said twice.
    const at = this.#out.indexOf(read);
    if (read.generation !== this.#generation || at < 0) return;
    this.#out[at] = this.#out[this.#out.length - 1];
    this.#out.pop();
    const queue = this.#transport.queue(REQUEST);
    if (queue.running) {
      this.#answer.status = ok ? ScsiStatus.GOOD : ScsiStatus.CHECK_CONDITION;
      this.#answer.key = SenseKey.MEDIUM_ERROR;
      this.#answer.code = SenseCode.READ_ERROR;
      const written =
        ended === 0
          ? this.#respond(chain, ScsiResponse.OK, ok ? bytes : 0)
          : this.#respond(chain, ended, 0);
      queue.push(chain, written);
      if (!this.#serving) this.#transport.notifyUsed(queue);
    }
    this.#idle.push(read);
    if (ended !== 0) this.#release();
  };

  /**
   * Writes what comes before the data. § 2.7.8.2: the used length counts from the first byte, so
   * everything up to the data is written.
   * @param data bytes of data. @returns bytes written in all.
   */
  #respond(chain: Chain, response: number, data: number): number {
    const answer = this.#answer;
    const { senseSize } = this.#r;
    const end = ANSWER + senseSize;
    if (this.#response.length !== Math.max(end, ANSWER + SENSE_SIZE)) {
      this.#response = new Uint8Array(Math.max(end, ANSWER + SENSE_SIZE));
      this.#responseView = new DataView(this.#response.buffer);
    }
    const ok = response === ScsiResponse.OK;
    const check = ok && answer.status !== ScsiStatus.GOOD;
    const view = this.#responseView;
    this.#response.fill(0);
    if (check) senseData(this.#response, ANSWER, answer.key, answer.code);
    view.setUint32(0, check ? Math.min(SENSE_SIZE, senseSize) : 0, true);
    view.setUint32(4, Math.max(0, chain.writableBytes - end - data) % 2 ** 32, true);
    view.setUint8(10, ok ? answer.status : 0);
    view.setUint8(11, response);
    const head = this.#response.length === end ? this.#response : this.#response.subarray(0, end);
    return chain.write(0, head) + data;
  }

  // --- task management and notifications, § 5.6.6.2

  readonly #answerControl = (chain: Chain): number => {
    if (this.#held !== undefined) return LATER;
    const control = this.#control;
    const why = control.parse(chain);
    if (why !== undefined) {
      this.#transport.queue(CONTROL).fail(why);
      return 0;
    }
    let response = control.response;
    for (const read of this.#out) {
      if (!control.concerns(read.id, read.idHigh)) continue;
      if (control.queries) response = ScsiResponse.FUNCTION_SUCCEEDED;
      else if (control.ends !== 0 && read.ended === 0) {
        read.ended = control.ends;
        this.#holding++;
      }
    }
    if (this.#holding === 0) return control.respond(chain, response);
    // § 5.6.6.2: the commands come back before the function that ended them.
    this.#held = chain;
    return TAKEN;
  };

  /** A read that a task management function ended has come back. */
  #release(): void {
    const chain = this.#held;
    if (chain === undefined || --this.#holding > 0) return;
    this.#held = undefined;
    const queue = this.#transport.queue(CONTROL);
    if (!queue.running) return;
    chain.writeByte(0, ScsiResponse.FUNCTION_COMPLETE);
    queue.push(chain, 1);
    // Those behind it waited; serving them tells the driver of this one, too.
    if (this.#transport.live) this.notify(CONTROL);
    else this.#transport.notifyUsed(queue);
  }
}
