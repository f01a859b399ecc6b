/** From a configuration file to what the daemon works with. */
import { cpus } from "node:os";
import type { Log } from "./log.ts";
import type { Owner, VmSettings } from "./settings.ts";
import type { Stagger } from "./staggered.ts";

export interface Configuration {
  vms: readonly { settings: VmSettings; enable: boolean }[];
  switches: readonly { name: string }[];
  socketOwner: Owner | undefined;
  stagger: Stagger;
}

export interface ConfigurationOptions {
  /** A file that isn't there is an empty one. */
  optional: boolean;
  macros: Record<string, string>;
  log: Log;
}

/** @throws RefusalError with all errors of the file, a line each. */
export function readConfiguration(
  _path: string | undefined,
  _options: ConfigurationOptions,
): Configuration {
  return {
    vms: [],
    switches: [],
    socketOwner: undefined,
    stagger: { parallel: cpus().length, delay: 30 },
  };
}
