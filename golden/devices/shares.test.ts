/** Linux mounts shares by 9p: files cross both ways, and nothing but the whitelist is there. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Vm } from "../../src/index.ts";
import { TestDaemon } from "../../src/vmd/daemon/testing.ts";
import { deviceEngine as engine, deviceGuest } from "../guests/devices.ts";
import { guestFile, missingFiles } from "../guests/guest.ts";

setDefaultTimeout(300_000);
const missing = missingFiles(
  guestFile("linux-generic", "vmlinuz"),
  guestFile("busybox", "busybox"),
);
if (missing !== undefined) console.log(`shares of Linux skipped: ${missing}`);

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "shares-"));
  // Whoever the share's process is may write there.
  chmodSync(folder, 0o755);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.skipIf(missing !== undefined)("Linux mounts a share to write and one to read", async () => {
  const shared = join(folder, "shared");
  const readable = join(folder, "readable");
  for (const path of [shared, readable]) {
    mkdirSync(path, { recursive: true });
    chmodSync(path, 0o777);
  }
  const data = crypto.getRandomValues(new Uint8Array(65_536));
  const big = new Uint8Array(8 * 2 ** 20);
  for (let at = 0; at < big.length; at += data.length) big.set(data, at);
  writeFileSync(join(shared, "from-host.bin"), big);
  writeFileSync(join(shared, "secret.key"), "not for guests");
  mkdirSync(join(shared, "private"));
  writeFileSync(join(shared, "private/inside.txt"), "hidden too");
  symlinkSync("/etc/hostname", join(shared, "way-out.txt"));
  writeFileSync(join(readable, "notes.txt"), "read me\n");
  writeFileSync(join(readable, "other.bin"), "left out");
  const guest = await deviceGuest({
    name: "shares",
    source: "linux-generic",
    modules: ["9p", "9pnet_virtio"],
    script: `
mkdir -p /a /b
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 work /a && echo "mounted work"
mount -t 9p -o trans=virtio,version=9p2000.L docs /b && echo "mounted docs"
md5sum /a/from-host.bin
dd if=/a/from-host.bin of=/a/from-guest.bin bs=128k 2>/dev/null
mkdir /a/made && echo "by the guest" >/a/made/text && mv /a/made/text /a/made/moved && rm -r /a/made/nothing 2>/dev/null
ls -a /a | tr '\\n' ' '; echo "end of a"
cat /a/secret.key 2>&1; ls /a/private 2>&1; cat /a/way-out.txt 2>&1
echo x >/a/secret.key; echo "wrote secret: $?"
mkdir /a/private; echo "made private: $?"
ls /b | tr '\\n' ' '; echo "end of b"
cat /b/notes.txt
echo x >/b/notes.txt; echo "wrote notes: $?"
rm /b/notes.txt; echo "removed notes: $?"
for i in $(seq 1 200); do echo $i >/a/made/f$i; done; ls /a/made | wc -l
umount /a /b && echo unmounted
`,
  });
  await using vm = await Vm.start({
    ...guest,
    engine,
    shares: [
      { path: shared, tag: "work", deny: ["*.key", "private"] },
      { path: readable, tag: "docs", readOnly: true, allow: ["*.txt"] },
    ],
  });
  let output = "";
  vm.console.follow((bytes) => {
    output += new TextDecoder().decode(bytes);
  });
  await vm.ended;
  const sum = new Bun.CryptoHasher("md5").update(big).digest("hex");
  expect(output).toContain("mounted work");
  expect(output).toContain("mounted docs");
  expect(output).toContain(`${sum}  /a/from-host.bin`);
  expect(readFileSync(join(shared, "from-guest.bin")).equals(big)).toBe(true);
  expect(readFileSync(join(shared, "made/moved"), "utf8")).toBe("by the guest\n");
  const [, listed] = /^(.*)end of a/m.exec(output) ?? [];
  expect(listed).toContain("from-host.bin");
  expect(listed).not.toMatch(/secret|private/);
  expect(output).not.toContain("not for guests");
  expect(output).not.toContain("hidden too");
  expect(output).toContain("wrote secret: 1");
  expect(output).toContain("made private: 1");
  expect(readFileSync(join(shared, "secret.key"), "utf8")).toBe("not for guests");
  expect(output).toMatch(/^notes.txt end of b/m);
  expect(output).toContain("read me");
  expect(output).toContain("wrote notes: 1");
  expect(output).toContain("removed notes: 1");
  expect(existsSync(join(readable, "notes.txt"))).toBe(true);
  expect(output).toMatch(/^201/m);
  expect(output).toContain("unmounted");
});

const USER = 12_351;
const other =
  missing ??
  (process.geteuid!() === 0 && Bun.which("setpriv") !== null
    ? undefined
    : "only root can run things as another user");

test.skipIf(other !== undefined)(
  "a user's share of root's vmd is the user's, and no more",
  async () => {
    const instances = `allow instance { boot, disk, memory, owner :${USER} }`;
    await using vmd = await TestDaemon.start({
      args: ["-v"],
      config: `vm "base" {\n${instances}\ndisable\n}\n`,
    });
    chmodSync(vmd.socket, 0o666);
    const mine = join(folder, "mine");
    const roots = join(folder, "roots");
    for (const path of [mine, roots]) mkdirSync(path, { mode: 0o700 });
    chownSync(mine, USER, USER);
    const guest = await deviceGuest({
      name: "share-user",
      source: "linux-generic",
      modules: ["9p", "9pnet_virtio"],
      script: `
mkdir -p /a
mount -t 9p -o trans=virtio,version=9p2000.L mine /a
echo "from the guest" >/a/file; chown 0:0 /a/file 2>/dev/null
`,
    });
    for (const file of [guest.kernel, guest.initrd]) chmodSync(file, 0o644);
    const files = ["-b", guest.kernel, "-i", guest.initrd, "-a", guest.cmdline, "-m", guest.memory];
    const start = (share: string) =>
      vmd.vctl(
        ["start", "-c", "-t", "base", "--engine", engine, "--no-reboot"].concat(
          ["--share", share],
          files,
          "shared",
        ),
        USER,
      );
    const refused = await start(`roots=${roots}/inside`);
    expect(refused.err).toMatch(/no such file|EACCES|permission/i);
    expect(refused.code).toBe(1);
    const { out, err } = await start(`mine=${mine}`);
    expect(`${out}${err}`).toContain("script: done");
    const { uid, gid } = statSync(join(mine, "file"));
    expect([uid, gid]).toEqual([USER, USER]);
    expect(readFileSync(join(mine, "file"), "utf8")).toBe("from the guest\n");
    const mapped = await start(`mine=${mine},user=root`);
    expect(mapped.err).toContain("a share's user is the administrator's to say");
    expect(mapped.code).toBe(1);
  },
);
