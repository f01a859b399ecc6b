/** Two daemons, and a VM on its way between them through a line that the test holds. For tests. */
import { join } from "node:path";
import { Client } from "../../vctl/client.ts";
import { root } from "../../vmm/root.ts";
import { connectStream } from "../console-socket.ts";
import type { TestDaemon } from "../daemon/testing.ts";

const VCTL = join(root, "src/vctl/index.ts");

/** How a `vctl send` and a `vctl receive` ended. */
export interface Trip {
  send: { code: number | null; err: string };
  receive: { code: number | null; err: string };
  /** Bytes that went to the receiver, and back. */
  forth: number;
  back: number;
}

export interface TripOptions {
  from: TestDaemon;
  to: TestDaemon;
  /** The VM's names. */
  name: string;
  as?: string;
  args?: string[];
  receiveArgs?: string[];
  /** The line is cut after so many bytes to the receiver, or back. */
  cut?: { forth?: number; back?: number };
  /** Told once both run: processes to be killed. */
  started?: (send: Bun.Subprocess, receive: Bun.Subprocess) => void;
}

function environment({ socket }: TestDaemon) {
  return { ...process.env, VMD_SOCKET: socket };
}

/** Sends a VM through a line with both directions. */
export async function trip(options: TripOptions): Promise<Trip> {
  const { from, to, name, args = [], receiveArgs = [], cut = {} } = options;
  const send = Bun.spawn([process.execPath, VCTL, "send", "--duplex", ...args, name], {
    stdio: ["pipe", "pipe", "pipe"],
    env: environment(from),
  });
  const receive = Bun.spawn(
    [process.execPath, VCTL, "receive", ...receiveArgs, options.as ?? name],
    { stdio: ["pipe", "pipe", "pipe"], env: environment(to) },
  );
  options.started?.(send, receive);
  let dead = false;
  const carry = async (
    source: ReadableStream<Uint8Array>,
    sink: Bun.FileSink,
    most = Infinity,
  ): Promise<number> => {
    let carried = 0;
    try {
      for await (const piece of source) {
        if (dead) break;
        const part = piece.subarray(0, most - carried);
        carried += part.length;
        await sink.write(part);
        await sink.flush();
        if (carried < most) continue;
        // As a cable is: both directions at once.
        dead = true;
        await Promise.allSettled([end(send.stdin), end(receive.stdin)]);
        break;
      }
    } catch {
      // Who reads it is gone.
    }
    await end(sink);
    return carried;
  };
  const [forth, back, sendErr, receiveErr] = await Promise.all([
    carry(send.stdout, receive.stdin, cut.forth),
    carry(receive.stdout, send.stdin, cut.back),
    new Response(send.stderr).text(),
    new Response(receive.stderr).text(),
  ]);
  return {
    send: { code: await send.exited, err: sendErr },
    receive: { code: await receive.exited, err: receiveErr },
    forth,
    back,
  };
}

async function end(sink: Bun.FileSink): Promise<void> {
  try {
    await sink.end();
  } catch {
    // It was ended.
  }
}

/** All that a VM prints from its beginning, or its arrival, on. */
export async function followVm(daemon: TestDaemon, name: string) {
  process.env.VMD_SOCKET = daemon.socket;
  using client = Client.connect();
  const request = { request: "console", vm: name, lossless: true } as const;
  const { descriptor } = client.callForDescriptor(request);
  const { stream, closed } = await connectStream(descriptor);
  const seen = { text: "", ended: closed, stream };
  stream.follow((bytes) => {
    seen.text += new TextDecoder().decode(bytes);
  });
  return seen;
}
