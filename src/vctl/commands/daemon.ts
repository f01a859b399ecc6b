/** vctl load, log, reload, reset: what only the daemon's administrator may ask. */
import { Command } from "commander";
import { realpathSync } from "node:fs";
import { UsageError } from "../cli.ts";
import { Client, RefusedError } from "../client.ts";
import type { RequestInput } from "../../vmd/protocol.ts";

function ask(request: RequestInput): void {
  using client = Client.connect();
  try {
    client.call(request);
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
    throw new UsageError(`command failed: ${error.message}`);
  }
}

/** The one of `words` that `text` is the beginning of. @throws UsageError */
function prefixOf<T extends string>(words: readonly T[], text: string): T {
  const lower = text.toLowerCase();
  const exact = words.find((word) => word === lower);
  const matches = words.filter((word) => lower !== "" && word.startsWith(lower));
  if (exact !== undefined) return exact;
  if (matches.length > 1) throw new UsageError(`ambiguous argument: ${text}`);
  if (matches.length === 0) throw new UsageError(`unknown argument: ${text}`);
  return matches[0];
}

export function loadCommand(): Command {
  return new Command("load")
    .description("Load another configuration file; VMs that are there stay as they are")
    .argument("<filename>", "the file")
    .addHelpText("after", "\nExamples:\n  vctl load /etc/vm.more.conf")
    .action((filename: string) => {
      let path: string;
      try {
        path = realpathSync(filename);
      } catch {
        throw new UsageError(`${filename}: no such file`);
      }
      ask({ request: "load", path });
    });
}

const LEVELS = ["brief", "verbose"] as const;

export function logCommand(): Command {
  return new Command("log")
    .description("Make vmd say more, or less")
    .argument("<level>", "brief or verbose")
    .addHelpText("after", "\nExamples:\n  vctl log verbose")
    .action((text: string) => {
      ask({ request: "log", level: prefixOf(LEVELS, text) });
    });
}

export function reloadCommand(): Command {
  return new Command("reload")
    .description("Read the configuration file again; VMs that run go on")
    .addHelpText("after", "\nExamples:\n  vctl reload")
    .action(() => ask({ request: "reload" }));
}

const RESETS = ["all", "switches", "vms"] as const;

export function resetCommand(): Command {
  return new Command("reset")
    .description("Terminate all VMs, and forget what is configured")
    .argument("[what]", "all, switches or vms", "all")
    .addHelpText("after", "\nExamples:\n  vctl reset vms")
    .action((text: string) => {
      ask({ request: "reset", what: prefixOf(RESETS, text) });
    });
}
