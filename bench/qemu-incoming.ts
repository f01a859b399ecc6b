/** A guest that QEMU's TCG goes on with from a file, as the peer of restores and copies. */
import { join } from "node:path";
import { BARE, QEMU } from "./qemu.ts";
import { Watched } from "./watched.ts";

const MIB = 2 ** 20;

/** What it boots: it prints "tick 50" and goes on printing. */
export interface IncomingGuest {
  readonly kernel: string;
  readonly initrd: string;
  readonly cmdline: string;
}

export class QemuIncoming {
  readonly #command: readonly string[];

  private constructor(command: readonly string[]) {
    this.#command = command;
  }

  /** Boots it, and has QEMU write what it goes on from. */
  static async prepare(
    { kernel, initrd, cmdline }: IncomingGuest,
    memory: string,
    folder: string,
  ): Promise<QemuIncoming> {
    const file = join(folder, "linux.qemu");
    const monitor = join(folder, "monitor");
    const command = [
      ...[QEMU, "-accel", "tcg", "-M", "pc", "-m", memory, ...BARE, "-serial", "stdio"],
      ...["-kernel", kernel, "-initrd", initrd, "-append", cmdline],
    ];
    await using qemu = new Watched([...command, "-monitor", `unix:${monitor},server,nowait`]);
    await qemu.until("tick 50");
    await tell(monitor, `migrate "exec:cat > ${file}"`, settled(file));
    return new QemuIncoming([...command, "-incoming", `exec:cat ${file}`]);
  }

  /** @returns ns from the command to the first new byte */
  async run(): Promise<number> {
    const from = Bun.nanoseconds();
    const child = Bun.spawn([...this.#command], { stdio: ["ignore", "pipe", "ignore"] });
    await child.stdout.getReader().read();
    const time = Bun.nanoseconds() - from;
    child.kill("SIGKILL");
    await child.exited;
    return time;
  }
}

/** Whether a file has come to its end: QEMU's migration says nothing else that is as easily heard. */
function settled(path: string): () => boolean {
  let last = -1;
  return () => {
    const { size } = Bun.file(path);
    const done = size > MIB && size === last;
    last = size;
    return done;
  };
}

/** Gives QEMU's monitor a command, and waits. */
async function tell(monitor: string, text: string, done: () => boolean): Promise<void> {
  const socket = await Bun.connect({ unix: monitor, socket: { data() {} } });
  socket.write(`${text}\n`);
  for (let i = 0; i < 300 && !done(); i++) await Bun.sleep(100);
  socket.end();
}
