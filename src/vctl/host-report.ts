/** What this host offers: engines, versions, sandbox and network facilities. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { arch, release } from "node:os";
import { Capability, ENGINES, Engine, type EngineName, probe } from "../vmm/engine.ts";
import { MachineImage } from "../vmm/image.ts";
import { hostLibrary } from "../vmm/native.ts";
import { selectEngine, whyNotKvm } from "../vmm/select.ts";
import { print } from "./cli.ts";
import { formatTable } from "./table.ts";

interface EngineReport {
  engine: EngineName;
  usable: boolean;
  version: string;
  why: string;
  capabilities: string[];
}

export interface HostReport {
  host: Record<string, string>;
  engines: EngineReport[];
  auto: { engine: string; why: string };
  facilities: Record<string, string>;
}

function engineReport(engine: EngineName): EngineReport {
  const { available, version, why } = probe(engine);
  if (!available) return { engine, usable: false, version, why, capabilities: [] };
  const failure = engine === "kvm" ? whyNotKvm() : undefined;
  return {
    engine,
    usable: failure === undefined,
    version,
    why: failure ?? "",
    capabilities: capabilities(engine),
  };
}

function capabilities(name: EngineName): string[] {
  try {
    using image = new MachineImage([{ base: 0, size: 0x10000, readonly: false }]);
    using engine = Engine.open(name, image);
    return Object.entries(Capability)
      .filter(([, bit]) => engine.can(bit))
      .map(([capability]) => capability.toLowerCase().replaceAll("_", " "));
  } catch {
    return [];
  }
}

function line(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}

function processor(): string {
  const info = line("/proc/cpuinfo") ?? "";
  const model = /^model name\s*:\s*(.*)$/m.exec(info)?.[1] ?? "unknown";
  const flags = /^flags\s*:\s*(.*)$/m.exec(info)?.[1].split(" ") ?? [];
  const extension = flags.includes("vmx") ? "VT-x" : flags.includes("svm") ? "AMD-V" : "none";
  return `${model} (virtualisation: ${extension})`;
}

function kvmModules(): string {
  const loaded = readdirSync("/sys/module").filter((module) => module.startsWith("kvm"));
  return loaded.length > 0 ? loaded.join(", ") : "none";
}

const present = (yes: boolean) => (yes ? "yes" : "no");

function facilities(): Record<string, string> {
  const landlock = hostLibrary().vmm_landlock_abi();
  const seccomp = line("/proc/sys/kernel/seccomp/actions_avail");
  return {
    seccomp: seccomp === undefined ? "no" : seccomp.split(" ").join(", "),
    landlock: landlock > 0 ? `ABI ${landlock}` : "no",
    "user namespaces": present(Number(line("/proc/sys/user/max_user_namespaces") ?? 0) > 0),
    "network namespaces": present(existsSync("/proc/self/ns/net")),
    "TUN/TAP": present(existsSync("/dev/net/tun")),
    bridges: present(existsSync("/sys/module/bridge") || existsSync("/sys/class/net/bridge0")),
    passt: present(Bun.which("passt") !== null),
    nftables: present(Bun.which("nft") !== null),
    userfaultfd: present(existsSync("/proc/sys/vm/unprivileged_userfaultfd")),
  };
}

/** Asks everything. */
export function hostReport(): HostReport {
  let auto: HostReport["auto"];
  try {
    auto = selectEngine();
  } catch (error) {
    auto = { engine: "none", why: (error as Error).message };
  }
  return {
    host: {
      kernel: `Linux ${release()} ${arch()}`,
      processor: processor(),
      "KVM modules": kvmModules(),
      Bun: Bun.version,
    },
    engines: ENGINES.map(engineReport),
    auto,
    facilities: facilities(),
  };
}

/** The report as a table on standard output. */
export function printHostReport(report: HostReport): void {
  const rows: string[][] = Object.entries(report.host);
  for (const { engine, usable, version, why, capabilities } of report.engines) {
    rows.push([`engine ${engine}`, usable ? `usable, ${version}` : `not usable: ${why}`]);
    if (capabilities.length > 0) rows.push(["", capabilities.join(", ")]);
  }
  const { engine, why } = report.auto;
  rows.push(["engine auto", why === "" ? engine : `${engine}: ${why}`]);
  rows.push(...Object.entries(report.facilities));
  print(formatTable(rows));
}
