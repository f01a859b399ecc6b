/** A real Linux mounts a share: its v9fs, the device, the share's process, the host's files. */
import { expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { guestFile, missingFiles } from "../../../golden/guests/guest.ts";
import { initramfsFile, prepare } from "../../../golden/guests/initramfs.ts";
import { libraryPathOf } from "../../vmm/engine-library.ts";
import { hostBuffer, type Pointer, ptr, watchLibrary } from "../../vmm/native.ts";
import { openBootFiles } from "../boot-files.ts";
import { ownConfinement } from "../confinement.ts";
import { VmLife } from "../vm-life.ts";
import { checkVmOptions } from "../vm-options.ts";
import { ShareClient } from "./client.ts";
import type { SharePolicy } from "./server.ts";
import { openShareRoot, ShareHost } from "./share-host.ts";
import { Folder } from "./testing.ts";

setDefaultTimeout(120_000);

/** A kernel that has 9P, and its modules in the order to load them in. */
const kernel = guestFile("linux-generic", "vmlinuz");
const MODULES = [
  "virtio_ring",
  "virtio",
  "virtio_pci_legacy_dev",
  "virtio_pci_modern_dev",
  "virtio_pci",
  "netfs",
  "fscache",
  "9pnet",
  "9pnet_virtio",
  "9p",
].map((name) => [name, guestFile("linux-generic", join("modules", `${name}.ko`))] as const);
const missing = missingFiles(kernel, ...MODULES.map(([, path]) => path));
if (missing !== undefined) console.log(`shares of Linux skipped: ${missing}`);

/** Runs a script in a guest with the share "host". @returns its console */
async function run(script: string, folder: string, policy: SharePolicy): Promise<string> {
  const load = MODULES.map(([name]) => `insmod /lib/${name}.ko`).join("\n");
  const files = Object.fromEntries(
    MODULES.map(([name, path]) => [`lib/${name}.ko`, readFileSync(path)]),
  );
  const init = `${prepare}${load}\nmkdir -p /mnt\n${script}\npoweroff -f\n`;
  const initrd = await initramfsFile("share", { init, files });
  const cmdline = "console=ttyS0 quiet";
  const engine = "unicorn" as const;
  const options = checkVmOptions({
    name: "share",
    kernel,
    initrd,
    cmdline,
    memory: "256M",
    engine,
  });
  const share = new ShareHost({
    name: "host",
    root: openShareRoot(folder),
    policy,
    confine: ownConfinement(),
  });
  await share.serving();
  const client = new ShareClient(share.descriptor);
  const { vmm_watch_open, vmm_watch, vmm_watch_target } = watchLibrary();
  const attention = new Int32Array(hostBuffer(vmm_watch_open() as unknown as number, 4));
  let text = "";
  using life = VmLife.boot(engine, options, openBootFiles(options), {
    output: (bytes) => {
      text += Buffer.from(bytes).toString("latin1");
    },
    debug: () => {},
    broke: (device, why) => {
      text += `${device} broke: ${why}\n`;
    },
    backends: () => ({
      random: (into) => void crypto.getRandomValues(into),
      interfaces: [],
      disks: [],
      shares: [{ tag: "host", backend: client }],
    }),
  });
  const library = ptr(Buffer.from(`${libraryPathOf(engine)}\0`));
  life.vcpu.attention = attention;
  vmm_watch_target(library, life.engine.handle as Pointer);
  for (let going = true; going;) {
    Atomics.store(attention, 0, 0);
    // For input, and for room when something waits for that.
    vmm_watch(client.descriptor, client.backlog > 0 ? 3 : 1);
    life.machine.idle();
    going = life.vcpu.run().kind === "attention";
  }
  life.machine.flush();
  vmm_watch(client.descriptor, 0);
  vmm_watch_target(library, null);
  share.stop();
  await share.ended;
  return text.replaceAll("\r", "");
}

const mount = (options = "") =>
  `mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144${options} host /mnt`;

test.skipIf(missing !== undefined)("Linux works in a share, within its whitelist", async () => {
  using folder = new Folder();
  const root = folder.at("root");
  const { uid = process.geteuid!(), gid = process.getegid!() } = ownConfinement();
  chmodSync(folder.path, 0o755);
  mkdirSync(join(root, "closed"), { recursive: true });
  writeFileSync(join(root, "file"), "hello\n");
  writeFileSync(join(root, "key.pem"), "the secret\n");
  symlinkSync("file", join(root, "fine"));
  symlinkSync("/etc/passwd", join(root, "out"));
  for (const path of [root, join(root, "file")]) chownSync(path, uid, gid);
  const text = await run(
    `${mount()} && cd /mnt && echo "names: $(ls | tr '\\n' ' ')"
cat file fine
cat key.pem; echo x >key.pem; ls closed; cat out; mkfifo fifo; chown 1:1 file
mkdir d && echo made >d/made && chmod 4750 d/made && mv d e && echo "moved: $(cat e/made)"
for i in 1 2 3 4; do (dd if=/dev/urandom of=r$i bs=9999 count=50; md5sum <r$i >s$i) 2>/dev/null & done
wait; sync; echo 3 >/proc/sys/vm/drop_caches
for i in 1 2 3 4; do [ "$(md5sum <r$i)" = "$(cat s$i)" ] && echo same; done
i=0; while [ $i -lt 200 ]; do echo >many$i; i=$((i+1)); done; echo "files: $(ls | wc -l)"; rm many*
cd /; umount /mnt; ${mount(",cache=loose")} && cd /mnt
cp r1 copy && tar cf /tmp/tar . && rm -r r1 r2 r3 r4 s1 && tar xf /tmp/tar 2>&1
echo "again: $(md5sum <r1 | cut -c1-8) $(md5sum <copy | cut -c1-8)"
cd /; umount /mnt && echo unmounted`,
    root,
    { deny: ["closed", "**/*.pem"] },
  );
  for (const line of [
    "names: file fine out",
    "hello\nhello",
    "cat: can't open 'key.pem': No such file or directory",
    "can't create key.pem: Permission denied",
    "ls: closed: No such file or directory",
    "cat: can't open 'out': Permission denied",
    "mkfifo: fifo: Operation not permitted",
    "chown: file: Operation not permitted",
    "moved: made",
    "same\nsame\nsame\nsame\n",
    "files: 212",
    "unmounted",
  ]) {
    expect(text).toContain(line);
  }
  expect(text).toMatch(/again: (\w{8}) \1\n/);
  expect(text).not.toContain("broke");
  const made = statSync(join(root, "e/made"));
  expect([made.uid, made.mode & 0o7777]).toEqual([uid, 0o750]);
  expect(readFileSync(join(root, "key.pem"), "utf8")).toBe("the secret\n");
  const sum = (name: string) =>
    new Bun.CryptoHasher("md5").update(readFileSync(join(root, name))).digest("hex");
  expect(sum("r3")).toBe(readFileSync(join(root, "s3"), "utf8").slice(0, 32));
});

test.skipIf(missing !== undefined)("what is read-only stays as it is", async () => {
  using folder = new Folder();
  chmodSync(folder.path, 0o755);
  writeFileSync(folder.at("file"), "hello\n");
  const text = await run(
    `${mount()} && cd /mnt
cat file; echo x >>file; rm file; mkdir d; touch file; cat file; echo end`,
    folder.path,
    { readonly: true },
  );
  expect(text).toMatch(
    /hello\n.*Read-only file system\nrm: .*Read-only file system\nmkdir: .*Read-only file system\ntouch: .*Read-only file system\nhello\nend/s,
  );
  expect(readFileSync(folder.at("file"), "utf8")).toBe("hello\n");
});
