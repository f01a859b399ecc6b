/** Live statistics of a VM's exits: counted for a while, and not a moment longer. */
import type { ExitCount } from "./exit-counter.ts";
import type { VmHost } from "./vm-host.ts";
import { VmError } from "./vm-options.ts";

/** Who counts now. */
const users = new WeakMap<VmHost, number>();

/** @param time ms. @returns what was counted, and in how many ms. @throws VmError */
export async function countExits(
  host: VmHost,
  time: number,
): Promise<{ counts: ExitCount[]; time: number }> {
  users.set(host, (users.get(host) ?? 0) + 1);
  try {
    const before = await counted(host);
    const from = performance.now();
    await Bun.sleep(time);
    const after = await counted(host);
    return { counts: since(before, after), time: performance.now() - from };
  } finally {
    const left = (users.get(host) ?? 1) - 1;
    users.set(host, left);
    if (left === 0) host.tell({ kind: "count-exits", on: false });
  }
}

async function counted(host: VmHost): Promise<ExitCount[]> {
  const { counts } = await host.ask({ kind: "count-exits", on: true }, "exit-counts");
  if (counts === undefined) throw new VmError(`${host.name}: its exits are being recorded`);
  return counts;
}

function since(before: readonly ExitCount[], after: readonly ExitCount[]): ExitCount[] {
  const key = ({ reason, where }: ExitCount) => `${reason} ${where}`;
  const old = new Map(before.map((count) => [key(count), count]));
  return after
    .map((now) => {
      const { count = 0, handled = 0 } = old.get(key(now)) ?? {};
      return { ...now, count: now.count - count, handled: now.handled - handled };
    })
    .filter(({ count }) => count > 0)
    .sort((a, b) => b.count - a.count);
}
