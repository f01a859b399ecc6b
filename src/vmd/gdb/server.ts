/**
 * The debugger's end in the VM process: one client at a time on a listening socket, and the vCPU
 * run as it says. The guest waits for the first client before its first instruction; whoever
 * connects later stops it.
 */
import { closeSync } from "node:fs";
import { daemonLibrary, processLibrary, ptr } from "../../vmm/native.ts";
import { Watch } from "../console-hub.ts";
import type { Stop } from "../vcpu.ts";
import type { VmLife } from "../vm-life.ts";
import { Connection } from "./connection.ts";
import { EngineTarget } from "./engine-target.ts";
import { GdbStub } from "./stub.ts";

/** So many readings at a time: the VM's other messages wait meanwhile. */
const READINGS = 64;
/** How long the VM process's messages may wait while the guest stands still, ms. */
const LOOK = 100;
const POLLIN = 1;

const ATTENTION: Stop = { kind: "attention" };

interface Client {
  readonly connection: Connection;
  readonly stub: GdbStub;
}

export interface GdbServerOptions {
  /** A listening socket that doesn't block. */
  listener: number;
  /** Another descriptor that ends the wait of a guest that stands still. */
  channel: number;
  watch: (descriptor: number, events: number) => void;
  /** The client ends the VM. */
  kill: () => void;
}

export class GdbServer {
  readonly #options: GdbServerOptions;
  readonly #accepting: (listener: number) => number;
  #target: EngineTarget | undefined;
  #attention: Int32Array = new Int32Array(1);
  #client: Client | undefined;
  #standing = true;
  #reset = false;

  constructor(options: GdbServerOptions) {
    this.#options = options;
    // Nothing can be loaded in the sandbox.
    this.#accepting = daemonLibrary().vmm_accept;
    options.watch(options.listener, Watch.INPUT);
  }

  /** A machine begins: the first, or one after a reset. */
  begin(life: VmLife): void {
    this.#attention = life.vcpu.attention;
    if (this.#target !== undefined) {
      this.#target.begin(life);
      return;
    }
    this.#target = new EngineTarget(life, {
      reset: () => (this.#reset = true),
      kill: this.#options.kill,
    });
  }

  /** As Vcpu.run; also returns "attention" while the guest stands still. */
  run(): Stop {
    const target = this.#target!;
    this.#serve(target);
    if (this.#reset) {
      this.#reset = false;
      return { kind: "reset", by: "the debugger" };
    }
    if (this.#standing) {
      this.#rest();
      return ATTENTION;
    }
    const stop = target.run();
    if (stop.kind !== "debug") return stop;
    const { reason } = target;
    this.#stand(target);
    this.#client?.stub.stopped(reason);
    return ATTENTION;
  }

  /** The VM is gone. */
  end(code: number): void {
    this.#client?.stub.exited(code);
    this.#flush();
    this.#hangUp();
    closeSync(this.#options.listener);
  }

  #stand(target: EngineTarget): void {
    this.#standing = true;
    target.stop();
  }

  #serve(target: EngineTarget): void {
    // A client that is gone makes room for the next.
    this.#hear(target);
    this.#accept(target);
    this.#hear(target);
  }

  #hear(target: EngineTarget): void {
    this.#flush();
    const client = this.#client;
    if (client === undefined) return;
    for (let i = 0; ; i++) {
      if (i === READINGS) {
        Atomics.store(this.#attention, 0, 1);
        break;
      }
      const bytes = client.connection.read();
      if (bytes === "nothing") break;
      if (bytes === "end") {
        this.#hangUp();
        return;
      }
      if (client.stub.received(bytes) && !this.#standing) {
        this.#stand(target);
        client.stub.stopped({ kind: "interrupt" });
      }
      // It read nothing of what it asked for.
      if (client !== this.#client) return;
      this.#standing = !client.stub.running;
      if (client.stub.gone) {
        this.#flush();
        this.#hangUp();
        return;
      }
    }
  }

  #accept(target: EngineTarget): void {
    for (;;) {
      const descriptor = this.#accepting(this.#options.listener);
      if (descriptor < 0) return;
      if (this.#client !== undefined) {
        closeSync(descriptor);
        continue;
      }
      // Whoever connects finds the guest standing still.
      if (!this.#standing) this.#stand(target);
      const connection = new Connection(descriptor);
      const stub = new GdbStub(target, false, (bytes) => {
        connection.write(bytes);
        this.#flush();
      });
      this.#client = { connection, stub };
      this.#options.watch(descriptor, Watch.INPUT);
    }
  }

  #flush(): void {
    const connection = this.#client?.connection;
    switch (connection?.flush()) {
      case "waits":
        this.#options.watch(connection.descriptor, Watch.INPUT | Watch.ROOM);
        return;
      case "full":
        this.#hangUp();
    }
  }

  /** A client that goes without a word leaves the guest as it is, without its breakpoints. */
  #hangUp(): void {
    const client = this.#client;
    if (client === undefined) return;
    this.#client = undefined;
    client.stub.release();
    this.#options.watch(client.connection.descriptor, Watch.NOTHING);
    client.connection[Symbol.dispose]();
  }

  #rest(): void {
    if (Atomics.load(this.#attention, 0) !== 0) return;
    const { channel, listener } = this.#options;
    const descriptors = Int32Array.of(channel, this.#client?.connection.descriptor ?? listener);
    const events = Int32Array.of(POLLIN, POLLIN);
    processLibrary().vmm_poll(ptr(descriptors), ptr(events), 2, LOOK);
  }
}
