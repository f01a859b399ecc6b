/**
 * vmd [-dnv] [-D macro=value] [-f file]: the daemon. Without -d it goes into the background when it
 * listens. Its log goes to standard error, or through logger(1) to the system's.
 */
import { existsSync, mkdirSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { processLibrary } from "../../vmm/native.ts";
import { ownConfinement } from "../confinement.ts";
import { defaultSocket, distrust } from "../socket-path.ts";
import { readConfiguration } from "./configuration.ts";
import { Daemon } from "./daemon.ts";
import { detach, ready } from "./detach.ts";
import { SocketError } from "./front-door.ts";
import { Log } from "./log.ts";
import { CONFIG, makeProgram, type MainOptions } from "./program.ts";

/** Errors whose message is a sentence for the user. */
const EXPECTED = new Set(["RefusalError", "SocketError", "NativeError"]);

function complain(text: string): void {
  writeSync(2, `vmd: ${text}\n`);
}

async function run(options: MainOptions): Promise<number> {
  const root = process.geteuid!() === 0;
  const level = (options.verbose ?? 0) > 0 ? "verbose" : "brief";
  const log = new Log(level, options.log);
  const config = options.file ?? (root ? CONFIG : undefined);
  const settings = {
    optional: options.file === undefined,
    macros: options.define,
    log,
  };
  if (options.check) {
    await readConfiguration(config, settings);
    writeSync(2, "configuration OK\n");
    return 0;
  }
  if (!options.foreground) return await detach();
  if (!options.sandbox) {
    log.warn("no sandbox: VM processes keep the daemon's user, namespaces, files and system calls");
  }
  const socket = options.socket ?? defaultSocket();
  if (!existsSync(dirname(socket))) mkdirSync(dirname(socket), { recursive: true, mode: 0o700 });
  const trust = distrust(socket);
  if (trust !== undefined) throw new SocketError(trust);
  processLibrary().vmm_prompt();
  const daemon = await Daemon.start({
    socket,
    config,
    configOptional: settings.optional,
    macros: options.define,
    log,
    confine: options.sandbox ? ownConfinement() : undefined,
    idle: options.idle,
  });
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => void daemon.close());
  }
  process.on("SIGHUP", () => {
    daemon.reload().catch((error: Error) => log.warn(error.message));
  });
  process.on("SIGPIPE", () => {});
  ready(log);
  return await daemon.ended;
}

const program = makeProgram();
program.action((options: MainOptions) => {
  run(options).then(
    (code) => process.exit(code),
    (error: Error) => {
      const known = EXPECTED.has(error.name);
      for (const line of (known ? error.message : `internal error: ${error.stack}`).split("\n")) {
        complain(line);
      }
      process.exit(1);
    },
  );
});
program.parse(process.argv);
