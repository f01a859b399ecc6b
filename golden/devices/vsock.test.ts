/** Linux with a socket device: AF_VSOCK in the guest, unix sockets on the host. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Vm } from "../../src/index.ts";
import { compilerMissing } from "../guests/build.ts";
import { deviceEngine, deviceGuest, vsockProgram } from "../guests/devices.ts";
import { linuxAmd64 } from "../guests/linux.ts";

setDefaultTimeout(180_000);
const missing = linuxAmd64.missing() ?? compilerMissing();
if (missing !== undefined) console.log(`vsock of Linux skipped: ${missing}`);

const MIB = 2 ** 20;
const SIZE = 10 * MIB;
const folder = mkdtempSync(join(tmpdir(), "vsock-"));
afterAll(() => rmSync(folder, { recursive: true }));

const md5 = (bytes: Uint8Array) => new Bun.CryptoHasher("md5").update(bytes).digest("hex");

function random(seed: number): Uint8Array {
  let x = seed;
  return Uint8Array.from({ length: SIZE }, () => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return x >>> 24;
  });
}

/** All that comes, until its end. The socket may still be sending then. */
async function all(socket: Socket): Promise<Buffer> {
  const pieces: Buffer[] = [];
  socket.on("data", (piece: Buffer) => void pieces.push(piece));
  await new Promise((resolve) => socket.once("end", resolve));
  return Buffer.concat(pieces);
}

describe.skipIf(missing !== undefined)("Linux", () => {
  test("sockets carry 10 MiB in both directions, whoever connects", async () => {
    const guest = await deviceGuest({
      name: "vsock",
      modules: ["vmw_vsock_virtio_transport"],
      files: { "bin/vsock": readFileSync(vsockProgram()) },
      script: `
chmod +x /bin/vsock
mount -t tmpfs -o size=64m tmpfs /tmp
dd if=/dev/urandom of=/tmp/data bs=1M count=10 2>/dev/null
echo "data $(md5sum </tmp/data)"
vsock connect 999 </tmp/data || echo "refused"
echo "first $(vsock connect 1000 </tmp/data | md5sum)"
vsock listen 2000 </tmp/data >/tmp/back
echo "second $(md5sum </tmp/back)"
`,
    });
    const path = join(folder, "guest.sock");
    const sums: string[] = [];
    const outgoing = random(1);
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.end(outgoing);
      void all(socket).then((bytes) => void sums.push(md5(bytes)));
    });
    await new Promise<void>((resolve) => server.listen(`${path}_1000`, resolve));
    try {
      await using vm = await Vm.start({ ...guest, engine: deviceEngine, vsock: { cid: 42, path } });
      expect(vm.unconfined).toBe("");
      const sum = (await vm.console.expect(/data [0-9a-f]{32}/)).slice(5);
      await vm.console.expect("refused");
      await vm.console.expect(`first ${md5(outgoing)}`);
      expect(sums).toEqual([sum]);

      await vm.console.expect("listening at 2000");
      const socket = connect({ path, allowHalfOpen: true });
      socket.write("CONNECT 2000\n");
      const other = random(2);
      socket.end(other);
      const answer = await all(socket);
      const line = answer.subarray(0, answer.indexOf(10)).toString();
      expect(line).toMatch(/^OK \d+$/);
      expect(md5(answer.subarray(line.length + 1))).toBe(sum);
      await vm.console.expect(`second ${md5(other)}`);
      await vm.ended;
      expect(existsSync(path)).toBe(false);
    } finally {
      server.close();
    }
  });
});
