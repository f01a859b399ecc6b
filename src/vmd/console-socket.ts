/** A ConsoleStream over a socket to a VM process. */
import { ConsoleStream } from "./console-stream.ts";
import { connectDescriptor } from "./descriptor-socket.ts";

interface Outgoing {
  bytes: Uint8Array;
  taken: () => void;
}

/** A stream of a VM, and when its other end went. */
export interface ConnectedStream {
  stream: ConsoleStream;
  closed: Promise<void>;
  /** Takes what is left without waiting for listeners: little, when the other end is gone. */
  finish(): Promise<void>;
  /** Lets it go; the VM goes on. */
  close(): void;
}

/** @param descriptor a stream socket, closed here. */
export async function connectStream(descriptor: number): Promise<ConnectedStream> {
  const { promise: closed, resolve: close } = Promise.withResolvers<void>();
  const outgoing: Outgoing[] = [];
  let open = true;
  let finishing = false;
  const stream = new ConsoleStream((bytes) => {
    if (!open) return undefined;
    const { promise, resolve } = Promise.withResolvers<void>();
    outgoing.push({ bytes, taken: resolve });
    if (outgoing.length === 1) drain();
    return promise;
  });
  const end = () => {
    if (!open) return;
    open = false;
    for (const { taken } of outgoing.splice(0)) taken();
    stream.end();
    close();
  };
  const socket = await connectDescriptor(descriptor, {
    data(socket, data) {
      const taken = stream.push(new Uint8Array(data));
      // What nobody takes stays in the socket, and then with the guest.
      if (taken === undefined || finishing) return;
      socket.pause();
      void taken.then(() => open && socket.resume());
    },
    drain: () => drain(),
    close: end,
  });
  function drain(): void {
    while (outgoing.length > 0) {
      const first = outgoing[0];
      const written = socket.write(first.bytes);
      if (written < first.bytes.length) {
        first.bytes = first.bytes.subarray(Math.max(0, written));
        return;
      }
      outgoing.shift();
      first.taken();
    }
  }
  const finish = () => {
    finishing = true;
    if (open) socket.resume();
    return closed;
  };
  return { stream, closed, finish, close: () => socket.end() };
}
