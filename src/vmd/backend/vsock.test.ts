/** A guest's sockets with real ones behind them: VsockSockets and VsockHost, without a VM process. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  mkdtempSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MachineImage } from "../../vmm/image.ts";
import type { GuestMemory } from "../../vmm/memory.ts";
import { daemonLibrary, processLibrary, ptr } from "../../vmm/native.ts";
import { READ_END, READ_GONE, type VsockEvents } from "../virtio/vsock-backend.ts";
import { BUFFER } from "../virtio/vsock.ts";
import type { ToVm } from "../vm-messages.ts";
import { PENDING_MAX, rightsOf, VsockHost } from "../vsock-host.ts";
import { ASKS_PER_SECOND, SOCKETS_MAX, VsockSockets } from "./vsock.ts";

const EAGAIN = -11;
const KEY = 7;
let folder: string;
let path: string;
let image: MachineImage;
let memory: GuestMemory;
let host: VsockHost;
let sockets: VsockSockets;
let events: string[];
let now: number;
/** Descriptors of the test's own. */
let opened: number[];

const z = (text: string) => ptr(Buffer.from(`${text}\0`));
const own = (descriptor: number) => {
  expect(descriptor).toBeGreaterThanOrEqual(0);
  opened.push(descriptor);
  return descriptor;
};
const listen = (port: number) => own(daemonLibrary().vmm_listen(z(`${path}_${port}`), 0o600));
const accept = (listener: number) => own(daemonLibrary().vmm_accept(listener));
const client = () => own(daemonLibrary().vmm_connect_now(z(path)));

function write(descriptor: number, data: string | Uint8Array): number {
  const bytes = Buffer.from(data as string);
  return Number(processLibrary().vmm_send(descriptor, ptr(bytes), bytes.length, null, 0));
}

function read(descriptor: number, size = 1000): string | number {
  const bytes = Buffer.alloc(size);
  const got = Number(processLibrary().vmm_read(descriptor, ptr(bytes), size));
  return got < 0 ? got : bytes.toString("latin1", 0, got);
}

function poll(): string[] {
  sockets.attend();
  sockets.poll();
  return events.splice(0);
}

function place(text: string): number {
  memory.write(100, Buffer.from(text));
  return text.length;
}

const send = (text: string, key = KEY) => sockets.write(key, 100, place(text));

function receive(key = KEY, size = 100): string | number {
  const got = sockets.read(key, 200, size);
  if (got <= 0) return got;
  const bytes = Buffer.alloc(got);
  memory.read(200, bytes);
  return bytes.toString("latin1");
}

/** A connection of the guest's: the host's end of it. */
function connected(port = 80): number {
  const listener = listen(port);
  expect(sockets.connect(KEY, port)).toBe(true);
  expect(events.splice(0)).toEqual([`connected ${KEY}`]);
  return accept(listener);
}

beforeEach(() => {
  // Unix sockets' paths are short.
  folder = mkdtempSync(join(tmpdir(), "vs-"));
  path = join(folder, "v");
  image = new MachineImage([{ base: 0, size: 2 ** 20, readonly: false }]);
  memory = image.memory;
  events = [];
  opened = [];
  now = 0;
  host = new VsockHost({ cid: 3, path }, undefined, 200);
  sockets = new VsockSockets(own(host.listener()), {
    watch: () => {},
    ask: (id, port) => host.connect(id, port),
    knock: () => host.accept(),
    now: () => now,
  });
  host.tell = (message: ToVm, descriptors = []) => {
    if (message.kind === "vsock-answer") sockets.answer(message.id, descriptors[0]);
    else if (message.kind === "vsock-open") sockets.open(message.port, descriptors[0]);
    else if (message.kind === "vsock-listen") sockets.listen();
  };
  const device: VsockEvents = {
    connected: (key) => void events.push(`connected ${key}`),
    refused: (key) => void events.push(`refused ${key}`),
    available: (key) => void events.push(`available ${key}`),
    room: (key, bytes) => void events.push(`room ${key} ${bytes}`),
    ended: (key) => void events.push(`ended ${key}`),
    incoming: (port) => {
      events.push(`incoming ${port}`);
      return port === 81 ? undefined : KEY;
    },
    hostPort: () => 4242,
  };
  sockets.attach(device);
  sockets.begin(memory);
});

afterEach(() => {
  sockets.abandon();
  host[Symbol.dispose]();
  image[Symbol.dispose]();
  for (const descriptor of opened.splice(0)) {
    try {
      closeSync(descriptor);
    } catch {
      // The test has closed it.
    }
  }
  rmSync(folder, { recursive: true });
});

describe("the guest connects", () => {
  test("bytes go both ways", () => {
    const other = connected();
    expect(receive()).toBe(0);
    expect(send("hello")).toBe(5);
    expect(read(other)).toBe("hello");
    write(other, "world");
    expect(receive()).toBe(0);
    expect(poll()).toEqual([`available ${KEY}`]);
    expect(receive(KEY, 3)).toBe("wor");
    expect(receive()).toBe("ld");
  });

  test("a port where nobody listens is refused", () => {
    expect(sockets.connect(KEY, 81)).toBe(true);
    expect(events).toEqual([`refused ${KEY}`]);
    expect(receive()).toBe(0);
  });

  test("what the socket doesn't take is kept, in order", () => {
    const other = connected();
    const block = Buffer.alloc(BUFFER);
    let sent = 0;
    let kept = 0;
    for (let i = 0; kept === 0 && i < 100; i++) {
      block.fill(i);
      memory.write(4096, block);
      const moved = sockets.write(KEY, 4096, BUFFER);
      sent += BUFFER;
      kept = BUFFER - moved;
    }
    expect(poll()).toEqual([]);
    let room = 0;
    let got = 0;
    while (got < sent) {
      const text = read(other, 50_000);
      expect(typeof text).toBe("string");
      for (const char of text as string) {
        if (char.charCodeAt(0) !== Math.floor(got++ / BUFFER)) throw new Error(`at ${got}`);
      }
      for (const event of poll()) room += Number(event.split(" ")[2]);
    }
    expect(room).toBe(kept);
    expect(send("more")).toBe(4);
  });

  test("the end of sending comes behind what is kept", () => {
    const other = connected();
    const block = new Uint8Array(BUFFER);
    let kept = 0;
    for (let i = 0; kept === 0 && i < 100; i++) {
      memory.write(4096, block);
      kept = BUFFER - sockets.write(KEY, 4096, BUFFER);
    }
    sockets.shutdown(KEY, 2);
    let last: string | number = "";
    for (let i = 0; i < 10_000; i++) {
      last = read(other, 65_536);
      poll();
      if (last === "") break;
    }
    expect(last).toBe("");
    write(other, "still");
    poll();
    expect(receive()).toBe("still");
  });

  test("half an end, then the whole", () => {
    const other = connected();
    write(other, "bye");
    processLibrary().vmm_shutdown(other, 2);
    expect(receive()).toBe("bye");
    expect(receive()).toBe(READ_END);
    expect(receive()).toBe(0);
    expect(poll()).toEqual([]);
    expect(send("go on")).toBe(5);
    expect(read(other)).toBe("go on");
    closeSync(other);
    expect(poll()).toEqual([`ended ${KEY}`]);
  });

  test("one who is gone at once, and what the guest still sends", () => {
    const other = connected();
    write(other, "last");
    closeSync(other);
    expect(send("nobody hears")).toBe(12);
    expect(receive()).toBe("last");
    expect(receive()).toBe(READ_GONE);
    sockets.close(KEY);
    expect(send("nobody hears")).toBe(12);
  });

  test("a guest that doesn't receive hears of the end", () => {
    const other = connected();
    sockets.shutdown(KEY, 1);
    expect(write(other, "no")).toBe(-32);
    expect(poll()).toEqual([]);
    closeSync(other);
    expect(poll()).toEqual([`ended ${KEY}`]);
  });

  test("an answer that is too late is closed", () => {
    const listener = listen(80);
    const tell = host.tell;
    const late: (() => void)[] = [];
    host.tell = (message, descriptors) => void late.push(() => tell(message, descriptors));
    sockets.connect(KEY, 80);
    sockets.close(KEY);
    late[0]();
    expect(events).toEqual([]);
    expect(read(accept(listener))).toBe("");
  });

  test("no more than so many at once, and in a second", () => {
    host.tell = () => {};
    let asked = 0;
    while (sockets.connect(asked, 80)) asked++;
    expect(asked).toBe(ASKS_PER_SECOND);
    now = 1000;
    while (sockets.connect(asked, 80)) asked++;
    expect(asked).toBe(SOCKETS_MAX);
  });

  test("a machine's end closes all", () => {
    const other = connected();
    sockets.abandon();
    expect(read(other)).toBe("");
  });
});

describe("the host connects", () => {
  const settled = async () => {
    await Bun.sleep(20);
    return poll();
  };

  test("by CONNECT, and is told when the guest has accepted", async () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const one = client();
    expect(poll()).toEqual([]);
    write(one, "CONN");
    expect(await settled()).toEqual([]);
    write(one, "ECT 80\nmore");
    expect(await settled()).toEqual(["incoming 80"]);
    expect(read(one)).toBe(EAGAIN);
    sockets.accepted(KEY);
    expect(read(one)).toBe("OK 4242\n");
    expect(receive()).toBe("more");
    expect(send("hi")).toBe(2);
    expect(read(one)).toBe("hi");
    // Others come in after it.
    const two = client();
    write(two, "CONNECT 81\n");
    expect(poll()).toEqual(["incoming 81"]);
    expect(read(two)).toBe("");
  });

  test.each(["CONNECT x\n", "CONNECT 4294967296\n", "HELLO\n", "CONNECT  1\n", "C".repeat(40)])(
    "%j is no request",
    async (line) => {
      const one = client();
      write(one, line);
      expect(poll()).toEqual([]);
      expect(await settled()).toEqual([]);
      // With what was not read the end is a reset.
      expect(["", -104]).toContain(read(one));
    },
  );

  test("who says nothing goes, and who has to wait for that comes in", async () => {
    const silent = Array.from({ length: PENDING_MAX }, () => client());
    const one = client();
    write(one, "CONNECT 80\n");
    expect(poll()).toEqual([]);
    await Bun.sleep(100);
    expect(poll()).toEqual([]);
    await Bun.sleep(250);
    expect(poll()).toEqual(["incoming 80"]);
    for (const descriptor of silent) expect(read(descriptor)).toBe("");
  });

  test("one who goes before the guest has accepted", async () => {
    const one = client();
    write(one, "CONNECT 80\n");
    poll();
    closeSync(one);
    expect(await settled()).toEqual([`ended ${KEY}`]);
  });
});

describe("the path", () => {
  test("goes with the VM, and is taken from one that is no more", () => {
    const other = join(folder, "o");
    closeSync(daemonLibrary().vmm_listen(z(other), 0o600));
    expect(existsSync(other)).toBe(true);
    const second = new VsockHost({ cid: 3, path: other });
    second[Symbol.dispose]();
    expect(existsSync(other)).toBe(false);
  });

  test("is not taken from one that is there, nor from a file", async () => {
    expect(() => new VsockHost({ cid: 3, path })).toThrow("EADDRINUSE");
    const file = join(folder, "file");
    await Bun.write(file, "x");
    expect(() => new VsockHost({ cid: 3, path: file })).toThrow("EADDRINUSE");
    expect(existsSync(file)).toBe(true);
  });
});

const NOBODY = 65_534;

describe.skipIf(process.geteuid!() !== 0)("another user's rights", () => {
  const rights = rightsOf(NOBODY, NOBODY, []);

  test("who is connected to hears that user's name, and this process stays root", () => {
    chmodSync(folder, 0o755);
    const listener = listen(80);
    chmodSync(`${path}_80`, 0o666);
    own(rights.connect(`${path}_80`));
    const ids = new Int32Array(3);
    daemonLibrary().vmm_peer(accept(listener), ptr(ids));
    expect([...ids.subarray(0, 2)]).toEqual([NOBODY, NOBODY]);
    expect([process.geteuid!(), process.getegid!()]).toEqual([0, 0]);
  });

  test("what that user may not do isn't done", () => {
    chmodSync(folder, 0o755);
    listen(80);
    expect(rights.connect(`${path}_80`)).toBe(-13);
    expect(rights.listen(join(folder, "new"), 0o600)).toBe(-13);
    rights.remove(path);
    expect(existsSync(path)).toBe(true);
    chownSync(folder, NOBODY, NOBODY);
    own(rights.listen(join(folder, "new"), 0o600));
    expect(statSync(join(folder, "new")).uid).toBe(NOBODY);
  });
});
