/**
 * Linux on networks, through vmd: two VMs and the host on a bridge, a local interface with DHCP, and
 * as an ordinary user a switch of vmd's own, and passt.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, readFileSync, statSync, readlinkSync } from "node:fs";
import { connect } from "node:net";
import { dirname } from "node:path";
import { TestDaemon } from "../../src/vmd/daemon/testing.ts";
import { root } from "../../src/vmm/root.ts";
import { deviceEngine, deviceGuest } from "../guests/devices.ts";
import { linuxAmd64 } from "../guests/linux.ts";

setDefaultTimeout(300_000);
const USER = 12_349;

function missing(): string | undefined {
  const why = linuxAmd64.missing();
  if (why !== undefined) return why;
  if (process.geteuid!() !== 0) return "only root can make network namespaces";
  for (const program of ["unshare", "nsenter", "setpriv", "ip"]) {
    if (Bun.which(program) === null) return `there is no ${program}`;
  }
  return undefined;
}

function closed(): string | undefined {
  for (let folder = root; folder !== "/"; folder = dirname(folder)) {
    if ((statSync(folder).mode & 0o005) !== 0o005) return `${folder} is closed to other users`;
  }
  return undefined;
}

const reason = missing();
if (reason !== undefined) console.log(`networks of Linux skipped: ${reason}`);
const iperf = Bun.which("iperf3");
if (iperf === null) console.log("iperf3 between VMs skipped: it is not installed");
const passt = Bun.which("passt") === null ? "passt is not installed" : closed();
if (passt !== undefined) console.log(`user-mode networks skipped: ${passt}`);

/** Frames of a pcap file. */
function* framesOf(pcap: Buffer): Generator<Buffer> {
  for (let at = 24; at < pcap.length;) {
    const length = pcap.readUInt32LE(at + 8);
    yield pcap.subarray(at + 16, at + 16 + length);
    at += 16 + length;
  }
}

function isUdp(frame: Buffer, from: number, to: number): boolean {
  if (frame.readUInt16BE(12) !== 0x0800 || frame[23] !== 17) return false;
  return frame.readUInt16BE(34) === from && frame.readUInt16BE(36) === to;
}

/** Runs a command where the daemon's interfaces are. */
function inside(vmd: TestDaemon, ...command: string[]) {
  const { stdout, exitCode } = Bun.spawnSync(
    ["nsenter", `--net=/proc/${vmd.pid}/ns/net`, "--", ...command],
    { timeout: 60_000 },
  );
  return { out: stdout.toString(), code: exitCode };
}

async function guest(name: string, script: string) {
  return await deviceGuest({
    name,
    modules: ["virtio_net"],
    script: `ip link set lo up\n${script}`,
    programs: iperf === null ? [] : [iperf],
  });
}

/** Starts a VM of that guest, and gives what it printed once it has ended. */
async function start(
  vmd: TestDaemon,
  name: string,
  script: string,
  words: string[],
  user?: number,
): Promise<string> {
  const { kernel, initrd, cmdline, memory } = await guest(name, script);
  for (const file of [kernel, initrd]) chmodSync(file, 0o644);
  const files = ["-b", kernel, "-i", initrd, "-a", cmdline, "-m", memory];
  const args = ["start", "-c", "--engine", deviceEngine, "--no-reboot", ...words, ...files, name];
  return vmd.vctl(args, user).then(({ out, err, code }) => `${out}${err}status ${code}`);
}

describe.skipIf(reason !== undefined)("as root", () => {
  test("two VMs and the host on a switch: ping and iperf3", async () => {
    await using vmd = await TestDaemon.start({
      ownNetwork: true,
      config: 'switch "lan" {\n  interface br7\n}\n',
      args: ["-v"],
    });
    const server = start(
      vmd,
      "server",
      `ip addr add 10.7.0.2/24 dev eth0; ip link set eth0 up
${iperf === null ? "busybox nc -l -p 5201 >/dev/null" : "iperf3 -s -1 >/dev/null 2>&1"}
ping -c 6 10.7.0.1
`,
      ["-n", "lan"],
    );
    await vmd.logs(/server: started/);
    expect(inside(vmd, "ip", "addr", "add", "10.7.0.1/24", "dev", "br7").code).toBe(0);
    const address = () =>
      /link\/ether (\S+)/.exec(inside(vmd, "ip", "link", "show", "br7").out)?.[1] ?? "none";
    const before = address();
    expect(before).not.toBe("none");
    await Bun.sleep(4000);
    const client = await start(
      vmd,
      "client",
      `ip addr add 10.7.0.3/24 dev eth0; ip link set eth0 up
sleep 1
ping -c 3 -i 0.2 10.7.0.2
ping -c 3 -i 0.2 10.7.0.1
${iperf === null ? "echo hello | busybox nc 10.7.0.2 5201" : "iperf3 -c 10.7.0.2 -t 2 2>&1 | grep receiver"}
`,
      ["-n", "lan"],
    );
    const said = await client;
    // With what was said, if it is not so.
    const answered = said.match(/3 packets transmitted, 3 packets received/g) ?? [];
    expect(answered.length === 2 ? "" : said).toBe("");
    if (iperf !== null) expect(said).toMatch(/Bytes.*bits\/sec.*receiver/);
    expect(said).toContain("script: done");
    expect(await server).toContain("6 packets transmitted, 6 packets received");
    expect((await vmd.status()).every(({ state }) => state !== "running")).toBe(true);
    expect(address()).toBe(before);
    // Taps go with their VMs.
    expect(inside(vmd, "ip", "link").out).not.toMatch(/tap\d/);
  });

  test("a local interface gets its address by DHCP, and reaches the host and beyond", async () => {
    await using vmd = await TestDaemon.start({ ownNetwork: true, args: ["-v"] });
    // Another host, which knows nothing of the guests' addresses: only what is translated comes back.
    await using beyond = new Neighbour(vmd);
    const output = start(
      vmd,
      "local",
      `ip link set eth0 up
cat >/udhcpc.sh <<'EOF'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/31 dev eth0
ip route add default via $router
echo "bound: $ip $subnet $router $dns $lease"
EOF
chmod +x /udhcpc.sh
busybox udhcpc -i eth0 -n -q -s /udhcpc.sh 2>&1
sleep 1
ping -c 3 -i 0.2 $(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p')
${beyond.isThere ? `ping -c 4 -i 0.2 ${beyond.address}` : ""}
`,
      ["-L"],
    );
    await vmd.logs(/local: started/);
    const file = `${vmd.folder}/local.pcap`;
    const capturing = vmd.vctl(["capture", "-w", file, "local"]);
    const said = await output;
    // A capture ends with its VM; tcpdump's numbers of pcap with nanoseconds.
    expect(await capturing).toMatchObject({ code: 0 });
    const pcap = readFileSync(file);
    expect(pcap.readUInt32LE(0)).toBe(0xa1b23c4d);
    const frames = [...framesOf(pcap)];
    // DHCP's answers, too, come by the interface.
    expect(frames.filter((one) => isUdp(one, 67, 68)).length).toBeGreaterThanOrEqual(2);
    expect(frames.filter((one) => isUdp(one, 68, 67)).length).toBeGreaterThanOrEqual(2);
    expect(frames.filter((one) => one[12] === 8 && one[23] === 1).length).toBe(
      beyond.isThere ? 14 : 6,
    );
    expect(said).toContain("bound: 100.64.1.3 255.255.255.254 100.64.1.2 100.64.1.2");
    expect(said).toContain("3 packets transmitted, 3 packets received");
    if (beyond.isThere) expect(said).toContain("4 packets transmitted, 4 packets received");
    else console.log("a local interface beyond the host skipped: this kernel has no veth");
  });
});

/** A network namespace beside a daemon's own, with one link to it. */
class Neighbour implements AsyncDisposable {
  readonly address = "192.0.2.2";
  readonly isThere: boolean;
  readonly #process: Bun.Subprocess;

  constructor(vmd: TestDaemon) {
    this.#process = Bun.spawn(["unshare", "--net", "--", "sleep", "600"]);
    const mine = readlinkSync("/proc/self/ns/net");
    const { pid } = this.#process;
    while (readlinkSync(`/proc/${pid}/ns/net`) === mine) Bun.sleepSync(10);
    const there = (...words: string[]) => {
      Bun.spawnSync(["nsenter", `--net=/proc/${pid}/ns/net`, "--", "ip", ...words]);
    };
    const link = ["link", "add", "up0", "type", "veth", "peer", "name", "out0"];
    this.isThere = inside(vmd, "ip", ...link).code === 0;
    inside(vmd, "ip", "link", "set", "out0", "netns", String(pid));
    inside(vmd, "ip", "addr", "add", "192.0.2.1/24", "dev", "up0");
    inside(vmd, "ip", "link", "set", "up0", "up");
    there("addr", "add", `${this.address}/24`, "dev", "out0");
    there("link", "set", "out0", "up");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill();
    await this.#process.exited;
  }
}

describe.skipIf(reason !== undefined || passt !== undefined)("as an ordinary user", () => {
  test("two VMs on a switch of vmd's own", async () => {
    await using vmd = await TestDaemon.start({
      user: USER,
      config: 'switch "lan" {\n  interface bridge0\n}\n',
      args: ["-v"],
    });
    const server = start(
      vmd,
      "server",
      `ip addr add 10.8.0.2/24 dev eth0; ip link set eth0 up
${iperf === null ? "busybox nc -l -p 5201 >/dev/null" : "iperf3 -s -1 >/dev/null 2>&1"}
`,
      ["-n", "lan"],
      USER,
    );
    await vmd.logs(/server: started/);
    await Bun.sleep(4000);
    const client = await start(
      vmd,
      "client",
      `ip addr add 10.8.0.3/24 dev eth0; ip link set eth0 up
sleep 1
ping -c 3 -i 0.2 10.8.0.2
${iperf === null ? "echo hello | busybox nc 10.8.0.2 5201" : "iperf3 -c 10.8.0.2 -t 2 2>&1 | grep receiver"}
`,
      ["-n", "lan"],
      USER,
    );
    const said = await client;
    expect(said).toContain("3 packets transmitted, 3 packets received");
    if (iperf !== null) expect(said).toMatch(/Bytes.*bits\/sec.*receiver/);
    expect(await server).toContain("script: done");
  });

  test("a port of the host leads to the guest", async () => {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    await using vmd = await TestDaemon.start({ user: USER, args: ["-v"] });
    const output = start(
      vmd,
      "forwarded",
      `ip link set eth0 up
cat >/udhcpc.sh <<'EOF'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev eth0
ip route add default via $router
EOF
chmod +x /udhcpc.sh
busybox udhcpc -i eth0 -n -q -s /udhcpc.sh >/dev/null 2>&1
echo "hello from the guest" | busybox nc -l -p 80
`,
      ["-L", "--forward", `${port}:80`],
      USER,
    );
    await vmd.logs(/forwarded: started/);
    // passt accepts at once; a guest that isn't up says nothing, and later refuses until it listens.
    let said = "";
    for (const end = Date.now() + 60_000; said === "" && Date.now() < end;) {
      said = await new Promise<string>((resolve) => {
        let text = "";
        const socket = connect(port, "127.0.0.1");
        socket.on("data", (data) => (text += data.toString()));
        // Debian 12's passt completes the guest's handshake when the host's side has said something.
        socket.write("hello\n");
        socket.setTimeout(2000, () => socket.destroy());
        socket.on("error", () => {});
        socket.on("close", () => resolve(text));
      });
      await Bun.sleep(200);
    }
    expect(said).toBe("hello from the guest\n");
    expect(await output).toContain("script: done");
  });

  test("an interface of a user's is passt's: DHCP, and out of the VM's own network", async () => {
    await using vmd = await TestDaemon.start({ user: USER, args: ["-v"] });
    const output = await start(
      vmd,
      "user",
      `ip link set eth0 up
cat >/udhcpc.sh <<'EOF'
#!/bin/sh
[ "$1" = bound ] || exit 0
echo "bound: $ip"
EOF
chmod +x /udhcpc.sh
busybox udhcpc -i eth0 -n -q -s /udhcpc.sh 2>&1
`,
      ["-L"],
      USER,
    );
    expect(await output).toMatch(/bound: \d+\.\d+\.\d+\.\d+/);
  });
});
