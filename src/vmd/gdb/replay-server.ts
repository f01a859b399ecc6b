/** Debuggers of a recording, one after the other, on a listening socket. Nothing else runs meanwhile. */
import { closeSync } from "node:fs";
import { daemonLibrary, processLibrary, ptr } from "../../vmm/native.ts";
import { Watch } from "../console-hub.ts";
import type { ReplaySession } from "../recording/replay-session.ts";
import { Connection } from "./connection.ts";
import { ReplayTarget } from "./replay-target.ts";
import { GdbStub } from "./stub.ts";

const FOREVER = -1;

/**
 * Returns when a client has ended the replay by `kill`.
 * @param listener a listening socket that doesn't block; stays the caller's
 * @throws RecordingError, Divergence
 */
export function serveReplay(session: ReplaySession, listener: number): void {
  const target = new ReplayTarget(session);
  while (!target.killed) {
    wait(listener, Watch.INPUT);
    const descriptor = daemonLibrary().vmm_accept(listener);
    if (descriptor < 0) continue;
    using connection = new Connection(descriptor);
    serve(target, connection, listener);
  }
}

function serve(target: ReplayTarget, connection: Connection, listener: number): void {
  const stub = new GdbStub(target, false, (bytes) => connection.write(bytes));
  // A second one finds the door closed, and what the first says may be Ctrl-C.
  const interrupted = () => {
    refuseOthers(listener);
    const bytes = connection.read();
    return bytes === "end" || (bytes !== "nothing" && stub.received(bytes));
  };
  while (!stub.gone) {
    const output = connection.flush();
    if (output === "full") break;
    wait(connection.descriptor, Watch.INPUT | (output === "waits" ? Watch.ROOM : 0));
    refuseOthers(listener);
    const bytes = connection.read();
    if (bytes === "end") break;
    if (bytes === "nothing") continue;
    stub.received(bytes);
    if (stub.running && !stub.gone) stub.stopped(target.run(interrupted));
  }
  connection.flush();
  stub.release();
}

function refuseOthers(listener: number): void {
  const other = daemonLibrary().vmm_accept(listener);
  if (other >= 0) closeSync(other);
}

function wait(descriptor: number, events: number): void {
  processLibrary().vmm_poll(ptr(Int32Array.of(descriptor)), ptr(Int32Array.of(events)), 1, FOREVER);
}
