/** vmd's options: what its help and its manual say, too. */
import { Command, InvalidArgumentError, Option } from "commander";
import packageFile from "../../../package.json" with { type: "json" };
import type { LogFormat } from "./log.ts";

/** root's configuration file. */
export const CONFIG = "/etc/vm.conf";

export interface MainOptions {
  foreground?: boolean;
  check?: boolean;
  verbose?: number;
  define: Record<string, string>;
  file?: string;
  socket?: string;
  sandbox: boolean;
  log: LogFormat;
  idle?: number;
}

function macro(text: string, macros: Record<string, string>): Record<string, string> {
  const [, name, value] = /^([A-Za-z_][A-Za-z0-9_]*)=(.*)$/s.exec(text) ?? [];
  if (name === undefined) throw new InvalidArgumentError("it is no macro=value.");
  return { ...macros, [name]: value };
}

function seconds(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) throw new InvalidArgumentError("it is no time.");
  return value;
}

export function makeProgram(): Command {
  return new Command("vmd")
    .description("Run virtual machines")
    .option("-d, --foreground", "stay in the foreground, and log to standard error")
    .option("-n, --check", "check the configuration file, and end")
    .option("-v, --verbose", "say more", (_, before: number) => before + 1, 0)
    .option(
      "-D, --define <macro=value>",
      "define a macro, over the configuration file's",
      macro,
      {},
    )
    .option("-f, --file <path>", `configuration file (root's default: ${CONFIG})`)
    .option("--socket <path>", "control socket")
    .option(
      "--no-sandbox",
      "leave VM processes the daemon's user, namespaces, files and system calls",
    )
    .addOption(new Option("--log <format>", "log format").choices(["text", "json"]).default("text"))
    .addOption(
      new Option("--idle <seconds>", "end after this without VMs").argParser(seconds).hideHelp(),
    )
    .version(packageFile.version, "-V, --version")
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^error: /, "vmd: ")),
    });
}
