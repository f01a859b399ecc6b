/** Boots a guest of golden/guests and gives back what it said. */
import { type EngineChoice, Vm, type VmOptions } from "../src/index.ts";
import { type Guest, packageOf } from "./guests/index.ts";

/** Guests start at this moment, so that their logs don't depend on the day. */
const EPOCH = Date.UTC(2026, 0, 1);

/** What to type at a guest once it has come up, and what it must answer. */
export interface Dialogue {
  type: string;
  answer: RegExp;
}

export interface BootOptions {
  engine: EngineChoice;
  /** In ms; a guest that isn't up by then has failed. */
  timeout?: number;
  dialogue?: Dialogue[];
  /** Time by executed code: the log repeats to the last line. Default: on Unicorn. */
  virtualTime?: boolean;
}

/** The package, with its version, that a guest's kernel is of; "" for one that is of none. */
export function packageVersion(guest: Guest): string {
  const source = ["linux-amd64", "linux-i386", "memtest", "seabios", "xen"].find((name) =>
    guest.name.startsWith(name),
  );
  return (source === undefined ? undefined : packageOf(source)) ?? "";
}

/** The options that boot a guest. */
export async function guestOptions(guest: Guest): Promise<VmOptions> {
  return {
    name: guest.name,
    kernel: await guest.kernel(),
    initrd: await guest.initrd?.(),
    cmdline: guest.cmdline === "" ? undefined : guest.cmdline,
    memory: guest.memory,
    format: guest.format,
    reboot: false,
    epoch: EPOCH,
  };
}

/**
 * Boots until the guest says that it is up, has the dialogue, and ends it.
 * @returns the log up to the guest's own sign of life, as it was printed.
 * @throws ExpectError, VmError
 */
export async function boot(guest: Guest, options: BootOptions): Promise<string> {
  const { engine, timeout = 60_000, dialogue = [] } = options;
  const virtualTime = options.virtualTime ?? engine === "unicorn";
  await using vm = await Vm.start({ ...(await guestOptions(guest)), engine, virtualTime });
  const stream = guest.console === "debug" ? vm.debug : vm.console;
  let log = "";
  stream.follow((bytes) => {
    log += Buffer.from(bytes).toString("latin1");
  });
  await stream.expect(guest.says, timeout);
  const end = log.indexOf(guest.says) + guest.says.length;
  for (const { type, answer } of dialogue) {
    stream.send(type);
    await stream.expect(answer, timeout);
  }
  return log.slice(0, end);
}
