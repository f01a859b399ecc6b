/** The table of VMs: vmctl's columns, of its widths. */
import { basename } from "node:path";
import { formatSize } from "../vmd/size.ts";
import type { VmState, VmStatus } from "../vmd/protocol.ts";
import { colourState } from "./colour.ts";

type Cell = string | number;

const COLUMNS: readonly [string, number][] = [
  ["ID", 5],
  ["PID", 5],
  ["VCPUS", 5],
  ["MAXMEM", 7],
  ["CURMEM", 7],
  ["TTY", 7],
  ["OWNER", 12],
  ["STATE", 8],
];

function row(cells: readonly Cell[], name: string, state?: VmState): string {
  const columns = cells.map((cell, i) => `${cell}`.padStart(COLUMNS[i][1]));
  if (state !== undefined) columns.push(colourState(state, columns.pop() as string));
  return `${columns.join(" ")} ${name}\n`;
}

/** The header, and a line for each VM. */
export function statusTable(vms: readonly VmStatus[]): string {
  const head = row(
    COLUMNS.map(([title]) => title),
    "NAME",
  );
  return head + vms.map(line).join("");
}

function line(vm: VmStatus): string {
  const { id, pid, vcpus, maxMemory, currentMemory, tty, owner, state, name } = vm;
  return row(
    [
      id,
      pid ?? "-",
      vcpus,
      formatSize(maxMemory),
      currentMemory === null ? "-" : formatSize(currentMemory),
      tty === null ? "-" : terminalName(tty),
      owner,
      state,
    ],
    name,
    state,
  );
}

/** "/dev/pts/5" is "pts/5", "/dev/ttyp5" is "ttyp5". */
export function terminalName(path: string): string {
  return path.startsWith("/dev/") ? path.slice(5) : basename(path);
}
