/**
 * Networks: a guest sends to the host and receives from it by TCP, and asks for echoes by UDP, over a
 * tap; the same guest on QEMU. Ratios of throughputs are ours to QEMU's, of round trips QEMU's to
 * ours: 1 or more is as fast.
 *
 * It runs in a network namespace of its own, which needs root.
 */
import { existsSync } from "node:fs";
import { guestFile } from "../golden/guests/guest.ts";
import { linuxAmd64 } from "../golden/guests/index.ts";
import { labMissing, runInLab } from "../lab/index.ts";
import { Vm } from "../src/index.ts";
import { probe } from "../src/vmm/engine.ts";
import { netLibrary, ptr } from "../src/vmm/native.ts";
import type { Benchmark, Measurement } from "./lib.ts";
import { BARE, QEMU, qemuMissing } from "./qemu.ts";
import {
  type Case,
  caseSeconds,
  labEnvironment,
  loadGuest,
  loadMissing,
  loadPairs,
  loadProgram,
  loadResults,
  loadRows,
  type LoadRuns,
  outputOf,
} from "./virtio.ts";

const HOST = "10.9.0.1";
const SECONDS = caseSeconds(2);

const CASES: readonly Case[] = [
  { name: "tcp_send", command: `tcp-send ${HOST} 5001 ${SECONDS}` },
  { name: "tcp_receive", command: `tcp-receive ${HOST} 5002 ${SECONDS}` },
  { name: "rtt", command: `rtt ${HOST} 5003 2000`, time: true },
];

const PREPARE = `ip link set lo up
ip addr add 10.9.0.2/24 dev eth0
ip link set eth0 up
sleep 1
ping -c 1 ${HOST} >/dev/null`;

function ip(words: string): void {
  const { exitCode, stderr } = Bun.spawnSync(["ip", ...words.split(" ")]);
  if (exitCode !== 0) throw new Error(`ip ${words}: ${stderr.toString()}`);
}

/** One that stays while nobody has it open. Busybox's programs do it in the lab. */
function makeTap(): void {
  if (!existsSync("/dev/net/tun")) {
    Bun.spawnSync(["insmod", guestFile("linux-amd64", "modules/tun.ko")]);
  }
  const made = [
    ["ip", "tuntap", "add", "dev", "tap0", "mode", "tap", "vnet_hdr"],
    ["tunctl", "-t", "tap0"],
  ].some((command) => Bun.which(command[0]) !== null && Bun.spawnSync(command).exitCode === 0);
  if (!made) throw new Error("tap0 can't be made");
}

/** Who takes, gives and echoes, for both contenders. */
function serve(): void {
  const block = new Uint8Array(2 ** 20);
  Bun.listen({ hostname: HOST, port: 5001, socket: { data: () => {} } });
  const pump = (socket: { write: (data: Uint8Array) => number }) => {
    while (socket.write(block) === block.length);
  };
  Bun.listen({ hostname: HOST, port: 5002, socket: { data: () => {}, open: pump, drain: pump } });
  void Bun.udpSocket({
    hostname: HOST,
    port: 5003,
    socket: { data: (socket, data, port, address) => void socket.send(data, port, address) },
  });
}

/** In a namespace: both contenders on one tap, one after the other. */
async function measure(
  rounds: number,
  engine: "unicorn" | "kvm",
  accel: readonly string[],
  cmdline: string,
): Promise<LoadRuns> {
  makeTap();
  ip("link set lo up");
  ip(`addr add ${HOST}/24 dev tap0`);
  ip("link set tap0 up");
  serve();
  const guest = await loadGuest("bench-net", ["virtio_net"], PREPARE, CASES);
  const append = `${guest.cmdline} ${cmdline}`.trim();
  const ours = async () => {
    const name = new Uint8Array(16);
    new TextEncoder().encodeInto("tap0", name);
    const descriptor = netLibrary().vmm_tap_open(ptr(name), -1);
    if (descriptor < 0) throw new Error(`tap0: error ${-descriptor}`);
    await using vm = await Vm.start({
      ...guest,
      cmdline: append,
      engine,
      interfaces: [{ kind: "tap", mac: "fe:e1:bb:d1:00:01", locked: false, descriptor }],
    });
    let output = "";
    vm.console.follow((bytes) => {
      output += new TextDecoder().decode(bytes);
    });
    await vm.ended;
    return output;
  };
  const qemus = () =>
    outputOf([
      QEMU,
      ...accel,
      ...["-m", guest.memory, ...BARE, "-serial", "stdio", "-kernel", guest.kernel],
      ...["-initrd", guest.initrd, "-append", append],
      ...["-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no"],
      ...["-device", "virtio-net-pci,netdev=n,romfile="],
    ]);
  return await loadPairs(rounds, CASES, ours, qemus);
}

function namespaceMissing(): string | undefined {
  if (process.geteuid!() !== 0) return "only root can make network namespaces.";
  const program = ["unshare", "ip"].find((name) => Bun.which(name) === null);
  return program === undefined ? undefined : `there is no ${program}.`;
}

function unicornMissing(): string | undefined {
  const { available, why } = probe("unicorn");
  return available ? undefined : `${why}.`;
}

const software: Measurement = {
  rows: loadRows("unicorn", "qemu_tcg", CASES),
  rounds: 5,
  missing: () =>
    loadMissing() ??
    namespaceMissing() ??
    unicornMissing() ??
    qemuMissing() ??
    linuxAmd64.missing(),
  async run(rounds) {
    const command = ["unshare", "--net", "--", "bun", "bench/net.ts", `${rounds}`, "unicorn"];
    const output = await outputOf(command, 60 + 60 * rounds);
    return loadResults("unicorn", "qemu_tcg", CASES, parse(output));
  },
};

const lab: Measurement = {
  rows: loadRows("lab", "qemu_kvm", CASES),
  rounds: 3,
  missing: () => labMissing() ?? loadMissing() ?? qemuMissing(),
  async run(rounds) {
    const { code, stdout, stderr } = await runInLab(["bun", "bench/net.ts", `${rounds}`, "kvm"], {
      qemu: true,
      files: { load: loadProgram() },
      env: labEnvironment(),
      timeout: 60 + 240 * rounds,
    });
    if (code !== 0) throw new Error(`the networks in the lab failed:\n${stderr.trim()}`);
    return loadResults("lab", "qemu_kvm", CASES, parse(stdout));
  },
};

function parse(output: string): LoadRuns {
  const line = output.split("\n").find((one) => one.startsWith("{"));
  if (line === undefined) throw new Error(output.slice(-1000));
  return JSON.parse(line);
}

export const netBench: Benchmark = {
  name: "net",
  about: "a guest's network, beside QEMU's",
  measurements: [software, lab],
};

if (import.meta.main) {
  const [, , rounds, engine] = process.argv;
  const kvm = engine === "kvm";
  const accel = kvm ? ["-accel", "kvm", "-cpu", "host", "-M", "pc"] : ["-accel", "tcg", "-M", "pc"];
  const runs = await measure(Number(rounds), kvm ? "kvm" : "unicorn", accel, kvm ? "noxsave" : "");
  console.log(JSON.stringify(runs));
  process.exit(0);
}
