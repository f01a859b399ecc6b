/** The table of VMs: as vmctl prints it, in colour on a terminal. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import type { VmStatus } from "../vmd/protocol.ts";
import { statusTable } from "./status-table.ts";

const vm: VmStatus = {
  id: 12,
  name: "web",
  pid: 4711,
  vcpus: 1,
  maxMemory: 512 * 2 ** 20,
  currentMemory: 1.5 * 2 ** 30,
  tty: "/dev/pts/3",
  owner: "alice:staff",
  state: "running",
  engine: "kvm",
  boot: null,
  uptime: 1,
  reboots: 0,
  configured: true,
};

test("columns as vmctl's, dashes for what isn't there", () => {
  const stopped: VmStatus = { ...vm, pid: null, currentMemory: null, tty: null, state: "stopped" };
  expect(statusTable([vm, stopped])).toBe(
    [
      "   ID   PID VCPUS  MAXMEM  CURMEM     TTY        OWNER    STATE NAME",
      "   12  4711     1    512M    1.5G   pts/3  alice:staff  running web",
      "   12     -     1    512M       -       -  alice:staff  stopped web",
      "",
    ].join("\n"),
  );
});

test("states are coloured on a terminal, unless NO_COLOR is set", async () => {
  const table = JSON.stringify(join(import.meta.dir, "status-table.ts"));
  const code = `import { statusTable } from ${table};
    require("node:fs").writeSync(1, statusTable([${JSON.stringify(vm)}]));`;
  const shown = async (env: Record<string, string>) => {
    let screen = "";
    const child = Bun.spawn([process.execPath, "-e", code], {
      env: { PATH: process.env.PATH ?? "", ...env },
      terminal: {
        data: (_, data) => {
          screen += new TextDecoder().decode(data);
        },
      },
    });
    await child.exited;
    await Bun.sleep(100);
    return screen;
  };
  expect(await shown({})).toContain("\x1b[32m running\x1b[39m web");
  expect(await shown({ NO_COLOR: "1" })).toContain("  running web");
});
