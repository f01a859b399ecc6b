/**
 * A job for the lab: Linux on the KVM engine, confined, over a reset; and by vmd and vctl.
 * Prints what came of it as JSON.
 */
import { Vm } from "../src/index.ts";
import { TestDaemon } from "../src/vmd/daemon/testing.ts";
import { guestOptions } from "./boot.ts";
import { linuxAmd64Vmlinux } from "./guests/index.ts";

const options = await guestOptions(linuxAmd64Vmlinux);
const cmdline = `${options.cmdline} quiet noxsave`;

async function library() {
  await using vm = await Vm.start({ ...options, cmdline, engine: "kvm", reboot: true });
  const events: string[] = [];
  vm.onEvent((event) => events.push(event.kind));
  await vm.console.expect("userspace:", 100_000);
  await vm.console.send("reboot -f\n");
  await vm.console.expect("userspace:", 100_000);
  const [first] = await vm.exits(500);
  return { unconfined: vm.unconfined, events, counted: first?.count > 0 };
}

async function daemon() {
  await using vmd = await TestDaemon.start({ args: ["-v"] });
  const { kernel, initrd, memory } = options;
  const files = ["-b", kernel!, "-i", initrd!, "-a", cmdline, "-m", String(memory)];
  const started = await vmd.vctl(["start", "--engine", "kvm", ...files, "linux"]);
  let printed = 0;
  for (let i = 0; i < 60 && printed < 50; i++) {
    await Bun.sleep(1000);
    printed = JSON.parse((await vmd.vctl(["show", "--json", "linux"])).out).statistics.printed;
  }
  const [{ state, engine }] = await vmd.status();
  const stopped = await vmd.vctl(["stop", "-fw", "linux"]);
  return {
    started: started.code,
    printed: printed > 0,
    state,
    engine,
    stopped: stopped.code,
    warnings: vmd.log.split("\n").filter((line) => line.includes("warning")),
  };
}

console.log(JSON.stringify({ library: await library(), daemon: await daemon() }));
